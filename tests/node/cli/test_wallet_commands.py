import re
from pathlib import Path

import pytest

from chain.contracts import miner_seats, reward_distributor, task_registry, training_token
from chain.contracts.addresses import FAUCET, MINER_SEATS, TASK_REGISTRY, TRAINING_TOKEN
from chain.contracts.reward_distributor import RewardClaim
from chain.primitives import Address, TaskId
from chain.types.transaction import Transaction, decode_transaction
from tests.worlds.command_line import Answers, Pot, serve

PROOF = "0x" + "01" * 32


class FakeChain:
    """Balances, claimable rewards, and the transactions that were sent."""

    def __init__(self) -> None:
        self.transactions: list[Transaction] = []
        self.tokens = 10**18
        self.claimable = {1: 5, 2: 0, 3: 7}
        self.faucet: str | None = "0x" + FAUCET.hex()
        self.other_tokens: dict[int, Address] = {}
        """The tokens of the tasks that do not pay in POT."""
        self.reverts: tuple[bytes, ...] = ()
        """The calls that pass the estimate, and revert in their block."""

    def answers(self) -> Answers:
        return {
            "eth_chainId": lambda: "0x5",
            "eth_getBalance": lambda account, block: hex(3 * 10**18),
            "eth_call": lambda call, block: "0x" + self.tokens.to_bytes(32, "big").hex(),
            "eth_estimateGas": lambda call: "0x5208",
            "eth_getBlockByNumber": lambda number, full: {"baseFeePerGas": "0x0"},
            "eth_maxPriorityFeePerGas": lambda: "0x0",
            "eth_getTransactionCount": lambda account, block: "0x0",
            "eth_sendRawTransaction": self.send,
            "eth_getTransactionReceipt": self.execute,
            "pot_nodeInfo": lambda: {
                "chainId": 31_337,
                "genesisHash": "0x" + "11" * 32,
                "systemContracts": {"faucet": self.faucet},
            },
            "pot_listTasks": lambda page: [] if page["offset"] else [{"id": i} for i in (1, 2, 3)],
            "pot_getTask": lambda task: {
                "terms": {"token": "0x" + self.other_tokens.get(task, TRAINING_TOKEN).hex()}
            },
            "pot_getRewardProof": self.prove,
        }

    def execute(self, name: str) -> object:
        sent = next(each for each in self.transactions if "0x" + each.hash.hex() == name)
        status = "0x0" if sent.data in self.reverts else "0x1"
        return {"status": status, "blockNumber": "0x1", "transactionHash": name}

    def send(self, raw: str) -> str:
        self.transactions.append(decode_transaction(bytes.fromhex(raw[2:])))
        self.tokens += 10**18
        return "0x" + self.transactions[-1].hash.hex()

    def prove(self, task: int, account: str) -> object:
        if task not in self.claimable:
            return None
        amount = str(self.claimable[task])
        return {"cumulative": amount, "claimable": amount, "claimed": "0", "proof": [PROOF]}


@pytest.fixture
def account(pot: Pot, tmp_path: Path) -> tuple[str, list[str]]:
    """An account in hex, and the options that open its keystore."""
    password = tmp_path / "password"
    password.write_text("secret\n")
    made = pot.json(
        *("wallet", "new", "alice", "--wallet", tmp_path / "wallet"),
        *("--password-file", password, "--light"),
    )
    return str(made["address"]), ["--key", str(made["key"]), "--password-file", str(password)]


def test_new_account_is_listed_and_never_overwritten(
    pot: Pot, tmp_path: Path, account: tuple[str, list[str]]
) -> None:
    wallet = ("--wallet", tmp_path / "wallet")
    assert pot("wallet", "list", *wallet).splitlines()[1] == f"alice  {account[0]}"
    assert pot("wallet", "list", *wallet, "--json").count(account[0]) == 1
    assert "exists" in pot.fails(
        "wallet", "new", "alice", *wallet, "--password-file", tmp_path / "password"
    )
    assert "pot wallet new" in pot("wallet", "list", "--wallet", tmp_path / "none")


def test_balance_is_of_an_account_or_of_a_keystore(
    pot: Pot, account: tuple[str, list[str]]
) -> None:
    with serve(FakeChain().answers()) as url:
        for named in (account[0], account[1][1]):
            assert pot("wallet", "balance", named, "--rpc", url) == "1 POT\n3 native coins\n"
        assert pot.json("wallet", "balance", account[0], "--rpc", url)["pot"] == str(10**18)


def test_account_is_called_by_its_name(
    pot: Pot, tmp_path: Path, account: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.cli.account.DEFAULT_WALLET", tmp_path / "wallet")
    chain = FakeChain()
    with serve(chain.answers()) as url:
        assert pot("wallet", "balance", "alice", "--rpc", url).startswith("1 POT")
        pot("wallet", "faucet", "--key", "alice", *account[1][2:], "--rpc", url)
        assert "is not an account" in pot.fails("wallet", "balance", "bob", "--rpc", url)
    assert "0x" + chain.transactions[0].sender.hex() == account[0]


@pytest.mark.parametrize("name", ["", "../evil", "a/b", ".hidden", "x" * 65])
def test_name_that_would_leave_the_wallet_is_refused(pot: Pot, tmp_path: Path, name: str) -> None:
    assert "is no name" in pot.fails("wallet", "new", name, "--wallet", tmp_path)


def test_more_than_there_is_is_refused_in_whole_ones(
    pot: Pot, account: tuple[str, list[str]]
) -> None:
    options = (*account[1], "--to", "0x" + "22" * 20)
    with serve(FakeChain().answers()) as url:
        for amount, asset, held in (("1.5", "POT", "1 POT"), ("3.5", "coin", "3 coin")):
            refusal = pot.fails(
                *("wallet", "send", *options, "--amount", amount, "--token", asset, "--rpc", url)
            )
            assert f"{account[0]} has {held}, and no more" in refusal


def test_send_moves_tokens_or_coins(pot: Pot, account: tuple[str, list[str]]) -> None:
    chain, to = FakeChain(), Address(b"\x22" * 20)
    chain.tokens = 2 * 10**18
    with serve(chain.answers()) as url:
        options = (*account[1], "--to", "0x" + to.hex(), "--amount", "1.5", "--rpc", url)
        pot("wallet", "send", *options)
        pot("wallet", "send", *options, "--token", "coin")
        assert "give POT or coin" in pot.fails("wallet", "send", *options, "--token", "ETH")
    tokens, coins = chain.transactions
    assert (tokens.to, tokens.value) == (TRAINING_TOKEN, 0)
    assert tokens.data == training_token.transfer(TRAINING_TOKEN, to, 15 * 10**17).data
    assert (coins.to, coins.value, coins.data) == (to, 15 * 10**17, b"")
    assert "0x" + coins.sender.hex() == account[0]


def test_send_takes_the_name_of_an_account(
    pot: Pot, tmp_path: Path, account: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.cli.account.DEFAULT_WALLET", tmp_path / "wallet")
    chain = FakeChain()
    options = (*account[1], "--amount", "1", "--token", "coin")
    with serve(chain.answers()) as url:
        pot("wallet", "send", *options, "--to", "alice", "--rpc", url)
        unknown = pot.fails("wallet", "send", *options, "--to", "bob", "--rpc", url)
    assert "'bob' is not an account; give 0x and 40 hex digits, or" in unknown
    (sent,) = chain.transactions
    assert sent.to is not None
    assert "0x" + sent.to.hex() == account[0]


def test_user_learns_why_a_transaction_waits_and_what_would_help(
    pot: Pot, account: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pot_common.rpc_client.RESEND_SECONDS", 0.0)
    notes: list[str] = []
    monkeypatch.setattr("node.cli.account.print_note", notes.append)
    chain = FakeChain()
    receipts = iter([None, {"status": "0x1", "blockNumber": "0x1", "transactionHash": "0x1"}])
    answers = {
        **chain.answers(),
        "eth_maxPriorityFeePerGas": lambda: hex(10**9),
        "eth_gasPrice": lambda: hex(10**9),
        "eth_getTransactionReceipt": lambda name: next(receipts),
    }
    to = "0x" + "22" * 20
    with serve(answers) as url:
        pot("wallet", "send", *account[1], "--to", to, "--amount", "1", "--rpc", url)
    assert notes == [
        "it waits: gas is free up to a ration, for which too many transactions wait",
        "to pay, stop this command and give it again with --gas-price 1000000000",
        "(wei for each unit of gas; it then costs at most 0.000321 coins)",
    ]
    assert all(len(note) <= 80 for note in notes)
    with serve(chain.answers()) as url:
        options = (*account[1], "--to", to, "--amount", "1", "--rpc", url)
        pot("wallet", "send", *options, "--gas-price", 10**9)
    assert {each.max_fee_per_gas for each in chain.transactions} == {0, 10**9}


def test_claim_takes_the_rewards_of_every_task_in_one_transaction(
    pot: Pot, account: tuple[str, list[str]]
) -> None:
    chain = FakeChain()
    owner = Address(bytes.fromhex(account[0][2:]))
    with serve(chain.answers()) as url:
        claimed = pot.json("wallet", "claim", *account[1], "--rpc", url)
        assert claimed["claimed"] == {"0x" + TRAINING_TOKEN.hex(): "12"}
        assert claimed["tasks"] == [1, 3]
        told = pot("wallet", "claim", *account[1], "--task", 2, "--rpc", url)
        assert " ".join(told.split()) == (
            f"nothing to claim: no settled round of task 2 has paid account {account[0]}"
        )
        assert max(map(len, told.splitlines())) <= 80
        assert "there is no task 9" in pot.fails(
            "wallet", "claim", *account[1], "--task", 9, "--rpc", url
        )
    (transaction,) = chain.transactions
    proof = (bytes.fromhex(PROOF[2:]),)
    assert (
        transaction.data
        == reward_distributor.claim_many(
            [RewardClaim(TaskId(1), owner, 5, proof), RewardClaim(TaskId(3), owner, 7, proof)]
        ).data
    )


def test_claim_says_that_all_is_claimed_already(pot: Pot, account: tuple[str, list[str]]) -> None:
    paid = {"cumulative": "9", "claimable": "0", "claimed": "9", "proof": [PROOF]}
    answers = {**FakeChain().answers(), "pot_getRewardProof": lambda task, account: paid}
    with serve(answers) as url:
        told = pot("wallet", "claim", *account[1], "--rpc", url)
    assert " ".join(told.split()) == (
        "nothing to claim: all that the account has earned in tasks 1, 2, 3 so far is claimed"
    )


def test_task_that_does_not_pay_keeps_no_reward_of_others(
    pot: Pot, account: tuple[str, list[str]]
) -> None:
    chain = FakeChain()

    def refuse_task_1(call: dict[str, str]) -> str:
        alone = reward_distributor.claim_many(claims[:1]).data
        if bytes.fromhex(call["data"][2:]) in (alone, together):
            raise RuntimeError(3, "execution reverted")
        return "0x5208"

    owner = Address(bytes.fromhex(account[0][2:]))
    proof = (bytes.fromhex(PROOF[2:]),)
    claims = [RewardClaim(TaskId(1), owner, 5, proof), RewardClaim(TaskId(3), owner, 7, proof)]
    together = reward_distributor.claim_many(claims).data
    with serve({**chain.answers(), "eth_estimateGas": refuse_task_1}) as url:
        refused = pot.fails("wallet", "claim", *account[1], "--rpc", url)
        assert "task 1 does not pay: execution reverted" in refused
        assert "execution reverted" in pot.fails(
            "wallet", "claim", *account[1], "--task", 1, "--rpc", url
        )
    (paid,) = chain.transactions
    assert paid.data == reward_distributor.claim_many(claims[1:]).data


def test_task_that_reverts_in_the_block_keeps_no_reward_of_others(
    pot: Pot, account: tuple[str, list[str]]
) -> None:
    """A token can pass the estimate, and refuse the transfer in the block."""
    chain = FakeChain()
    owner = Address(bytes.fromhex(account[0][2:]))
    proof = (bytes.fromhex(PROOF[2:]),)
    claims = [RewardClaim(TaskId(1), owner, 5, proof), RewardClaim(TaskId(3), owner, 7, proof)]
    alone, together = (reward_distributor.claim_many(each).data for each in (claims[:1], claims))
    chain.reverts = (alone, together)
    with serve(chain.answers()) as url:
        refused = pot.fails("wallet", "claim", *account[1], "--rpc", url)
    assert re.search("task 1 does not pay: transaction 0x[0-9a-f]{64} reverted in block 1", refused)
    assert [each.data for each in chain.transactions] == [
        together,
        alone,
        reward_distributor.claim_many(claims[1:]).data,
    ]


def test_rewards_in_different_tokens_are_not_added_up(
    pot: Pot, account: tuple[str, list[str]]
) -> None:
    chain, token = FakeChain(), Address(b"\x44" * 20)
    chain.claimable = {1: 10**18, 2: 2 * 10**18, 3: 5 * 10**17}
    chain.other_tokens = {2: token}
    with serve(chain.answers()) as url:
        shown = pot("wallet", "claim", "--key", account[1][1], "--dry-run", "--rpc", url)
        assert chain.transactions == []
        told = pot("wallet", "claim", *account[1], "--rpc", url)
        claimed = pot.json("wallet", "claim", *account[1], "--rpc", url)["claimed"]
    name = "0x" + chain.transactions[0].hash.hex()
    assert told.splitlines() == [
        "task 1: 1 POT",
        f"task 2: 2 of token 0x{token.hex()}",
        "task 3: 0.5 POT",
        "claimed 1.5 POT in",
        f"  {name}",
        f"claimed 2 of token 0x{token.hex()} in",
        f"  {name}",
    ]
    assert shown.splitlines() == told.splitlines()[:3]
    assert claimed == {
        "0x" + TRAINING_TOKEN.hex(): str(15 * 10**17),
        "0x" + token.hex(): str(2 * 10**18),
    }


def test_claim_for_another_account_pays_that_account(
    pot: Pot, account: tuple[str, list[str]]
) -> None:
    chain, other = FakeChain(), "0x" + "33" * 20
    with serve(chain.answers()) as url:
        pot("wallet", "claim", *account[1], "--task", 1, "--for", other, "--rpc", url)
    assert bytes.fromhex(other[2:]) in chain.transactions[0].data


def test_faucet_is_asked_only_where_there_is_one(pot: Pot, account: tuple[str, list[str]]) -> None:
    chain = FakeChain()
    with serve(chain.answers()) as url:
        assert pot("wallet", "faucet", *account[1], "--rpc", url) == "received 1 POT\n"
        chain.faucet = None
        assert "no faucet" in pot.fails("wallet", "faucet", *account[1], "--rpc", url)
    assert [transaction.to for transaction in chain.transactions] == [FAUCET]


def test_wrong_password_and_absent_node_are_one_line_each(
    pot: Pot, tmp_path: Path, account: tuple[str, list[str]]
) -> None:
    (tmp_path / "guess").write_text("guess\n")
    guess = [*account[1][:2], "--password-file", str(tmp_path / "guess")]
    with serve(FakeChain().answers()) as url:
        assert "wrong password" in pot.fails("wallet", "faucet", *guess, "--rpc", url)
    gone = pot.fails("wallet", "balance", account[0], "--rpc", "http://127.0.0.1:9")
    assert "no node answers at http://127.0.0.1:9" in gone
    assert "--rpc" in gone


def test_credit_of_an_operator_is_taken(pot: Pot, account: tuple[str, list[str]]) -> None:
    chain = FakeChain()
    with serve(chain.answers()) as url:
        taken = pot.json("wallet", "credit", *account[1], "--rpc", url)
    share, pay = chain.transactions
    assert (taken["received"], taken["slashings"]) == (str(2 * 10**18), str(10**18))
    assert (share.to, pay.to) == (MINER_SEATS, TASK_REGISTRY)
    assert share.data == miner_seats.withdraw_credit(TRAINING_TOKEN).data
    assert pay.data == task_registry.withdraw_examination_pay().data


def test_credit_is_shown_before_it_is_taken(pot: Pot, account: tuple[str, list[str]]) -> None:
    chain = FakeChain()
    with serve(chain.answers()) as url:
        shown = pot("wallet", "credit", *account[1], "--dry-run", "--rpc", url)
    assert shown == "shares of slashed bonds  1 POT\nanswers to new tasks     1 POT\n"
    assert chain.transactions == []


def test_credit_in_the_token_of_a_task_is_taken(pot: Pot, account: tuple[str, list[str]]) -> None:
    chain, token = FakeChain(), Address(b"\x44" * 20)
    with serve(chain.answers()) as url:
        taken = pot("wallet", "credit", *account[1], "--token", "0x" + token.hex(), "--rpc", url)
    assert f"received 1 of token 0x{token.hex()} in\n" in taken
    (share,) = chain.transactions
    assert share.data == miner_seats.withdraw_credit(token).data
