"""Fund, cancel, resume, refund, leave, withdraw: `pot` over HTTP on the real contracts."""

import json
from pathlib import Path

from eth_account.signers.local import LocalAccount

from chain.contracts import gradient_ledger
from chain.contracts.gradient_ledger import ResultKind, ResultVote
from chain.crypto import keccak256
from chain.primitives import ZERO_HASH, PrivateKey
from chain.state.world_state import get_account
from chain.training.acceptance import Verdict, encode_verdicts
from pot_common.keystore import save_key
from tests.worlds.command_line import Pot
from tests.worlds.rpc import rpc_harness, served
from tests.worlds.training_chain import (
    ANN,
    BEN,
    OPERATORS,
    SPEC,
    SUBMITTER,
    TASK,
    TrainingChain,
    address_of,
)

POT = 10**18


BOND = SPEC.reward.unit_price


class Accounts:
    """Keystores of the chain's people, as options."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._password = directory / "password"
        self._password.write_text("secret\n")

    def __call__(self, signer: LocalAccount) -> tuple[object, ...]:
        path = self._directory / f"{signer.address}.json"
        if not path.exists():
            save_key(path, PrivateKey(bytes(signer.key)), "secret", light=True)
        return ("--key", path, "--password-file", self._password)


def catch_up(chain: TrainingChain) -> None:
    """Tell the chain's own people the nonces that commands have used."""
    for signer in (SUBMITTER, ANN, BEN, OPERATORS[0]):
        account = get_account(
            chain.local.database, chain.store.head().state_root, address_of(signer)
        )
        chain._nonces[signer.address] = 0 if account is None else account.nonce


def void_attempt(chain: TrainingChain) -> None:
    """Let an attempt pass without a commitment."""
    catch_up(chain)
    for _ in range(SPEC.phases.commit_seconds // 2 + 2):
        chain.finalize()
    chain.finalize(chain.call(OPERATORS[0], gradient_ledger.advance_round(TASK)))


def fail_attempt(chain: TrainingChain, attempt: int) -> None:
    """Let miners commit to an attempt that pays none of them."""
    catch_up(chain)
    commitment = keccak256(b"gradient")
    for miner, units in ((ANN, 1), (BEN, 2)):
        call = gradient_ledger.commit_gradient(TASK, 0, attempt, units, commitment)
        chain.finalize(chain.call(miner, call))
    verdicts = encode_verdicts([Verdict.BAD, Verdict.BAD])
    void = ResultVote(ZERO_HASH, ZERO_HASH, ZERO_HASH, 0, 0, ResultKind.VOID, 0b1111)
    for call in (
        gradient_ledger.post_verdict(TASK, 0, attempt, 0, verdicts),
        gradient_ledger.post_result(TASK, 0, attempt, 0, void, None, 0),
    ):
        chain.finalize(*(chain.call(each, call) for each in OPERATORS))
        chain.finalize()
    chain.finalize(chain.call(OPERATORS[0], gradient_ledger.settle_round(TASK, void)))
    chain.finalize()


def test_money_goes_in_and_comes_back_and_what_is_refused_says_why(
    pot: Pot, tmp_path: Path
) -> None:
    chain = TrainingChain(tmp_path / "database")
    chain.submit()
    account = Accounts(tmp_path)
    with rpc_harness(tmp_path, chain.local) as rpc, served(rpc) as url:

        def task(command: str, signer: LocalAccount, *more: object) -> tuple[object, ...]:
            return ("task", command, TASK, *account(signer), "--rpc", url, *more)

        def miner(command: str, signer: LocalAccount) -> tuple[object, ...]:
            return ("miner", command, TASK, *account(signer), "--rpc", url)

        # Anybody puts money in, nobody else takes anything out, and not while it is open.
        funded = pot.json(*task("fund", ANN, "--amount", "5"))
        assert (funded["escrowed"], funded["status"]) == (str(105 * POT), "pending")
        assert "did not submit this task; give --key" in pot.fails(*task("cancel", ANN))
        assert "is pending, so it can be funded, extended or cancelled" in pot.fails(
            *task("resume", SUBMITTER)
        )
        assert "and only a closed one refunded" in pot.fails(*task("refund", SUBMITTER))
        poor = pot.fails(*task("fund", BEN, "--amount", "9999"))
        assert " POT, and needs 9999 POT; send it more, on a development network with pot" in poor
        assert "give what is to be added" in pot.fails(*task("fund", ANN, "--amount", "0"))
        unknown = ("task", "cancel", 9, *account(SUBMITTER), "--rpc", url)
        assert "there is no task 9; `pot task list`" in pot.fails(*unknown)
        assert "has no seat in task 1" in pot.fails(*miner("leave", ANN))
        assert "has no seat in task 1" in pot.fails(*miner("withdraw", ANN))

        # Anybody buys time and attempts, at a price that is shown before.
        priced = pot(*task("extend", ANN, "--lifetime", "2h", "--attempts", "0", "--dry-run"))
        assert priced.startswith("extension    2 h\n")
        longer_by = ("task", "extend", TASK, "--rpc", url, "--lifetime", "2h")
        assert pot(*longer_by, "--dry-run") == priced
        assert "--key is missing" in pot.fails(*longer_by)
        assert "attempts left   1000" in pot("task", "show", TASK, "--rpc", url)
        longer = pot(*task("extend", ANN, "--lifetime", "2h", "--attempts", "5"))
        assert "added 2 h, 5 attempts for about 0." in longer
        assert "attempts left  1005" in longer
        assert "the network allows 30 d at most; give --lifetime" in pot.fails(
            *task("extend", ANN, "--lifetime", "31d")
        )
        assert "above --max-fee (0.000000000000000001 POT)" in pot.fails(
            *task("extend", ANN, "--attempts", "5", "--max-fee", "0.000000000000000001")
        )
        assert "nothing to buy" in pot.fails(*task("extend", ANN))
        for malformed in ("soon", "1"):
            refused = pot.fails(*task("extend", ANN, "--lifetime", malformed))
            assert f"{malformed} is not a duration: give a number and its unit" in refused
        assert "give more" in pot.fails(*task("extend", ANN, "--lifetime", "0h"))
        shown = pot("task", "show", TASK, "--rpc", url)
        assert "attempts left   1005" in shown
        assert "unless validators are ready" in shown

        # Three attempts with commitments and without pay pause it.
        chain.activate()
        catch_up(chain)
        chain.register()
        going = "the bonds in task 1 are locked, because the seat goes on; to give it up: pot miner"
        assert going in pot.fails(*miner("withdraw", ANN))
        for attempt in range(3):
            fail_attempt(chain, attempt)
        assert "status           active" in pot(*task("resume", SUBMITTER))

        # It closes where its round ends, and gives back what is left: a miss costs the miners an
        # eighth of a round's pay, and in the last attempt the bond of the seat.
        status = ("miner", "status", "--key", account(ANN)[1], "--rpc", url)
        assert pot(*status).splitlines() == [
            "task 1          goes on",
            "units           1",
            "bond            1.25 POT",
            "seat bond       1 POT",
            "misses          0 of 2",
            "committed last  to attempt 3 of the task, over all rounds",
            "term            252 more attempts; then, in a full task, a newcomer may take its",
            "                  place",
            "bonds           locked while the seat goes on",
            "                to give the seat up: pot miner leave 1",
            "claimable       0 POT",
        ]
        left = pot(*miner("leave", ANN)).splitlines()
        assert left[2:] == [
            "bonds: 1.25 POT of its bond and 1 POT of its seat bond",
            "they are free 192 blocks (about 6 min) after the attempt in progress; next: pot",
            "  miner withdraw 1",
        ]
        assert max(map(len, left)) <= 80
        assert "this account has left task 1" in pot.fails(*miner("leave", ANN))
        cancelled = pot.json(*task("cancel", SUBMITTER))
        assert (cancelled["status"], cancelled["cancelling"]) == ("active", True)
        void_attempt(chain)
        catch_up(chain)
        assert "next: pot task refund 1" not in pot(*task("refund", ANN))
        refunded = "nothing of task 1 is left to refund"
        assert refunded in pot.fails(*task("refund", SUBMITTER))
        assert pot.fails(*miner("withdraw", ANN)) == (
            "error: this account has left task 1; "
            "it paid 0.125 POT of its bond and 1 POT of its seat bond for no commitment in "
            "attempt 4; 1.125 POT of its bond and 0 POT of its seat bond are left; they are free "
            "in 191 blocks (about 6 min): pot miner withdraw 1"
        )
        for _ in range(3 * 64 + 1):
            chain.finalize()
        (seat,) = json.loads(pot(*status, "--json"))
        loss = {"attempt": 4, "kind": "absence", "amount": str(POT // 8), "seatBond": str(POT // 8)}
        assert seat["losses"] == [loss]
        assert (seat["lockedBlocks"], seat["seatBond"], seat["lastAttempt"]) == (0, "0", 4)
        credit = ("wallet", "credit", *account(OPERATORS[0]), "--rpc", url)
        assert "received 0.034 POT" in pot(*credit)
        assert "no credit" in pot(*credit)
        assert "nothing" in pot.fails(*miner("withdraw", ANN), "--pot-only")
        back = pot.json(*miner("withdraw", ANN))
        assert (back["received"], back["seatBond"]) == (str(9 * POT // 8), "0")
        assert "has no seat in task 1" in pot(*status, TASK)
        assert "received 2.25 POT of the bond and 0 POT" in pot(*miner("withdraw", BEN))
        late = pot.fails(*task("extend", ANN, "--lifetime", "2h"))
        assert "task 1 is closed, so nothing can be added to it" in late
