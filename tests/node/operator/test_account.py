"""The operator's account: votes go into the next block whatever waits before them."""

from dataclasses import replace
from pathlib import Path

import pytest

from chain.contracts import gradient_ledger, miner_seats, task_registry
from chain.contracts.abi import ContractCall
from chain.contracts.gradient_ledger import Phase
from chain.contracts.miner_seats import Fine, FineKind
from chain.errors import InvalidTransaction
from chain.primitives import PrivateKey
from chain.training.acceptance import Verdict, encode_verdicts
from chain.types.transaction import Transaction, decode_transaction
from chain.validation import compute_next_base_fee
from node.mempool.intake import Pool
from node.mempool.pool import Mempool
from node.operator.account import RESEND_BLOCKS, OperatorAccount
from node.training.votes import SLASH_GAS, VOTE_GAS
from pot_common.gas_offer import RAISED_TIP_LIMIT_WEI
from tests.worlds.stored_chain import sign
from tests.worlds.training_chain import (
    ANN,
    OPERATORS,
    SPEC,
    SUBMITTER,
    TASK,
    TrainingChain,
    address_of,
)

GWEI = 10**9
ANN_ADDRESS = address_of(ANN)
STRANGER = SUBMITTER
STRANGER_ADDRESS = address_of(SUBMITTER)
BURNT_GAS = 7_500_000
"""Four transactions that burn as much fill a block."""

SLOW_SPEC = replace(SPEC, phases=replace(SPEC.phases, verdict_seconds=60, result_seconds=120))
VERDICT = gradient_ledger.post_verdict(TASK, 0, 0, 0, encode_verdicts([Verdict.OK, Verdict.CHEAT]))


class Market:
    """A chain whose operators share a pool with a stranger that can fill all blocks."""

    def __init__(self, path: Path, *, base_fee_per_gas: int = GWEI) -> None:
        self.chain = TrainingChain(path, base_fee_per_gas=base_fee_per_gas, spec=SLOW_SPEC)
        self.chain.submit()
        self.chain.activate()
        self.chain.register()
        self.chain.commit()
        self.pool = Mempool(self.chain.rules)
        self.accounts = [
            OperatorAccount(
                PrivateKey(bytes(each.key)),
                self.chain.local.config,
                self.chain.store,
                Pool(self.pool),
                self.pool,
            )
            for each in OPERATORS
        ]
        self.sent_at: dict[tuple[int, ContractCall], int] = {}

    @property
    def base_fee(self) -> int:
        """The base fee of the next block."""
        return compute_next_base_fee(self.chain.store.head(), self.chain.local.config.parameters)

    @property
    def phase(self) -> Phase:
        return self.chain.contracts.read(gradient_ledger.phase(TASK))

    def list_pending(self, index: int) -> tuple[Transaction, ...]:
        return self.pool.pending(self.accounts[index].address)

    async def send(self, index: int, call: ContractCall) -> None:
        """Send a call as a node does: again after a while, and only if it would not revert."""
        account, key = self.accounts[index], (index, call)
        head = self.chain.store.head_number()
        if head < self.sent_at.get(key, -RESEND_BLOCKS) + RESEND_BLOCKS:
            return
        if self.chain.contracts.simulate(account.address, call, VOTE_GAS) is None:
            await account.send(call, VOTE_GAS)
            self.sent_at[key] = head

    def flood(self) -> None:
        """Keep transactions in the pool that fill a block and pay more than operators."""
        first = self.pool.pending_nonce(STRANGER_ADDRESS)
        for each in range(first, self.chain.rules.nonce(STRANGER_ADDRESS) + 4):
            raw = sign(
                STRANGER,
                nonce=each,
                gas=BURNT_GAS,
                data=b"\xfe",
                maxFeePerGas=1_000 * GWEI,
                maxPriorityFeePerGas=100 * GWEI,
            )
            self.pool.add(decode_transaction(raw))

    def finalize(self, *, leaves_out_operators: bool = False) -> tuple[Transaction, ...]:
        """A block of the pool's candidates, and the operators' calls in it."""
        operators = {each.address for each in self.accounts}
        candidates = [
            each
            for each in self.pool.candidates(self.base_fee).transactions
            if not (leaves_out_operators and each.sender in operators)
        ]
        self.chain.local.extend(*(each.raw for each in candidates))
        block = self.chain.store.block(self.chain.store.head_number())
        assert block is not None
        included = tuple(map(decode_transaction, block.transactions))
        self.pool.on_finalized(included)
        return tuple(each for each in included if each.sender in operators)


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return Market(tmp_path)


async def test_round_goes_on_while_the_base_fee_rises_eightfold(market: Market) -> None:
    chain = market.chain
    first_base_fee = market.base_fee
    settle = gradient_ledger.settle_round(TASK, chain.compute_vote())
    result = gradient_ledger.post_result(TASK, 0, 0, 0, chain.compute_vote(), 15, 700)
    for index in range(4):
        await market.send(index, VERDICT)
    # One operator also waits with a call that is not due any more, as if it came too late.
    await market.accounts[0].send(task_registry.expire_task(TASK), VOTE_GAS)
    blocks_in_phase: dict[Phase, int] = {}
    while chain.contracts.read(gradient_ledger.get_round(TASK)).round == 0:
        blocks_in_phase[market.phase] = blocks_in_phase.get(market.phase, 0) + 1
        assert blocks_in_phase[market.phase] < 30
        for index in range(4):
            await market.send(index, VERDICT)
            await market.send(index, result)
        await market.send(0, settle)
        market.flood()
        # Primaries that break the rules leave the verdicts out until the base fee is high.
        market.finalize(leaves_out_operators=market.base_fee < 8 * first_base_fee)
    assert market.base_fee >= 8 * first_base_fee
    assert blocks_in_phase == {Phase.VERDICT: 19, Phase.RESULT: 1, Phase.SETTLEABLE: 1}


async def test_calls_that_wait_are_replaced_when_the_base_fee_has_risen(market: Market) -> None:
    await market.send(0, VERDICT)
    (before,) = market.list_pending(0)
    await market.accounts[0].send(task_registry.expire_task(TASK), VOTE_GAS)
    stayed = market.list_pending(0)
    assert stayed[0] == before
    for _ in range(10):
        market.flood()
        market.finalize(leaves_out_operators=True)
    assert before.max_fee_per_gas < market.base_fee
    await market.accounts[0].send(gradient_ledger.advance_round(TASK), VOTE_GAS)
    pending = market.list_pending(0)
    assert [each.nonce for each in pending] == [before.nonce + n for n in range(3)]
    assert [each.data for each in pending[:2]] == [each.data for each in stayed]
    assert all(each.max_fee_per_gas > 2 * market.base_fee for each in pending)
    market.flood()
    assert market.finalize()[:2] == pending[:2]


async def test_call_that_is_sent_again_replaces_itself_up_to_a_limit(market: Market) -> None:
    await market.accounts[0].send(VERDICT, VOTE_GAS)
    tips = [each.max_priority_fee_per_gas for each in market.list_pending(0)]
    for _ in range(40):
        await market.accounts[0].send(VERDICT, VOTE_GAS)
        tips += [each.max_priority_fee_per_gas for each in market.list_pending(0)]
    assert len(tips) == 41
    assert tips == sorted(tips)
    assert tips[0] == GWEI < tips[1] < tips[-1] <= RAISED_TIP_LIMIT_WEI


async def test_later_vote_on_a_ballot_takes_the_place_of_one_that_waits(market: Market) -> None:
    await market.accounts[0].send(VERDICT, VOTE_GAS)
    corrected = gradient_ledger.post_verdict(
        TASK, 0, 0, 0, encode_verdicts([Verdict.OK, Verdict.OK])
    )
    await market.accounts[0].send(corrected, VOTE_GAS)
    assert [each.data for each in market.list_pending(0)] == [corrected.data]


async def test_batches_of_fines_wait_beside_each_other(market: Market) -> None:
    fines = [Fine(0, index, ANN_ADDRESS, FineKind.MISS, 0) for index in range(2)]
    for fine in fines:
        await market.accounts[0].send(miner_seats.slash(TASK, 0, [(fine, [])]), SLASH_GAS)
    assert len(market.list_pending(0)) == 2


async def test_operators_own_transfer_is_not_sent_again(market: Market) -> None:
    own = sign(
        OPERATORS[0],
        nonce=market.chain.rules.nonce(market.accounts[0].address),
        to="0x" + STRANGER_ADDRESS.hex(),
        value=1,
        maxFeePerGas=3 * GWEI,
        maxPriorityFeePerGas=GWEI,
    )
    market.pool.add(decode_transaction(own))
    for _ in range(3):
        market.flood()
        market.finalize(leaves_out_operators=True)
    await market.accounts[0].send(VERDICT, VOTE_GAS)
    assert market.list_pending(0)[0].raw == own


async def test_low_balance_leaves_a_call_waiting_as_it_is(market: Market) -> None:
    account = market.accounts[0]
    await account.send(VERDICT, VOTE_GAS)
    before = market.list_pending(0)
    market.chain.rules.balance = lambda _sender: before[0].cost  # type: ignore[method-assign]
    await account.send(VERDICT, VOTE_GAS)
    assert market.list_pending(0) == before
    with pytest.raises(InvalidTransaction, match="insufficient_funds"):
        await account.send(task_registry.expire_task(TASK), VOTE_GAS)


async def test_where_gas_is_free_a_call_waits_without_a_fee(tmp_path: Path) -> None:
    market = Market(tmp_path, base_fee_per_gas=0)
    for _ in range(3):
        await market.accounts[0].send(VERDICT, VOTE_GAS)
    (waiting,) = market.list_pending(0)
    assert (waiting.max_fee_per_gas, waiting.max_priority_fee_per_gas) == (0, 0)
    assert market.finalize() == (waiting,)


async def test_new_result_takes_the_place_of_one_that_the_ledger_refuses(tmp_path: Path) -> None:
    market = Market(tmp_path, base_fee_per_gas=0)
    chain, account = market.chain, market.accounts[0]
    chain.finalize(*(chain.call(each, VERDICT) for each in OPERATORS[:3]))
    first, second = (
        gradient_ledger.post_result(
            TASK, 0, 0, 0, replace(chain.compute_vote(), timely_voters=voters), 15, 700
        )
        for voters in (0b0111, 0b1111)
    )
    await account.send(first, VOTE_GAS)
    # The fourth verdict was on its way while clocks said that the verdict phase was over.
    chain.finalize(chain.call(OPERATORS[3], VERDICT))
    market.pool.on_finalized([])
    await account.send(second, VOTE_GAS)
    assert [each.data for each in market.list_pending(0)] == [second.data]
