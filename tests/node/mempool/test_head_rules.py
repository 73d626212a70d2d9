"""The mempool's rules at the head: the reason of each refusal, and the priorities."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from eth_account import Account as Signer

from chain.contracts import (
    gradient_ledger,
    miner_seats,
    task_registry,
    training_token,
    validator_set,
)
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import TASK_REGISTRY, TRAINING_TOKEN, VALIDATOR_SET
from chain.contracts.validator_set import CONTRACT
from chain.errors import InvalidTransaction, RejectionReason
from chain.hexadecimal import to_hex
from chain.primitives import Address, BlockNumber, Hash32, TaskId
from chain.types.transaction import decode_transaction
from node.chain.contract_reader import ContractReader, Examination
from node.mempool.head_rules import LEAST_COMMITMENT_GAS, HeadRules
from node.mempool.policy import Priority
from tests.worlds.stored_chain import CHAIN_ID
from tests.worlds.training_chain import (
    ANN,
    BEN,
    GENESIS_SET,
    OPERATORS,
    SUBMITTER,
    TASK,
    TrainingChain,
    address_of,
)

EMPTY_CALL = ContractCall(TRAINING_TOKEN, b"")


UNREGISTERED = Signer.from_key(b"\x55" * 32)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> TrainingChain:
    chain = TrainingChain(tmp_path_factory.mktemp("rules"))
    chain.submit()
    chain.activate()
    chain.register()
    return chain


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nonce": 0}, RejectionReason.NONCE_TOO_LOW),
        ({"nonce": 2**64 - 1}, RejectionReason.NONCE_TOO_HIGH),
        ({"chainId": CHAIN_ID + 1}, RejectionReason.WRONG_CHAIN),
        ({"gas": 20_000}, RejectionReason.INTRINSIC_GAS),
        ({"gas": 2**25}, RejectionReason.GAS_CAP),
        ({"value": 10**30}, RejectionReason.INSUFFICIENT_FUNDS),
    ],
)
def test_each_rule_refuses_by_its_reason(
    chain: TrainingChain, changes: dict[str, object], reason: RejectionReason
) -> None:
    transaction = chain.draft(SUBMITTER, EMPTY_CALL, **changes)
    with pytest.raises(InvalidTransaction) as refused:
        chain.rules.validate(transaction)
    assert refused.value.reason is reason


def test_gas_that_cannot_pay_for_the_data_is_refused_undecoded(chain: TrainingChain) -> None:
    data = chain.draft(SUBMITTER, ContractCall(TRAINING_TOKEN, bytes(100)), gas=21_999).raw
    with pytest.raises(InvalidTransaction) as refused:
        chain.rules.validate_outline(data)
    assert refused.value.reason is RejectionReason.INTRINSIC_GAS
    chain.rules.validate_outline(chain.draft(SUBMITTER, EMPTY_CALL).raw)


def test_account_with_an_authorization_on_the_chain_is_delegated(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path)
    account = address_of(UNREGISTERED)
    assert not chain.rules.is_delegated(account)
    signed = UNREGISTERED.sign_authorization(
        {"chainId": CHAIN_ID, "address": TRAINING_TOKEN, "nonce": 0}
    )
    payment = ContractCall(address_of(SUBMITTER), b"")
    chain.finalize(chain.call(SUBMITTER, payment, authorizationList=[signed]))
    assert chain.rules.is_delegated(account)
    assert not chain.rules.is_delegated(TRAINING_TOKEN)


def test_nonce_that_is_too_high_is_accepted(chain: TrainingChain) -> None:
    nonce = chain.rules.nonce(address_of(SUBMITTER))
    for ahead in (0, 1, 60):
        chain.rules.validate(chain.draft(SUBMITTER, EMPTY_CALL, nonce=nonce + ahead))


def test_only_operators_votes_and_miners_commitments_have_a_subject(chain: TrainingChain) -> None:
    ready = task_registry.answer_task(TASK, 0)
    verdict = gradient_ledger.post_verdict(TASK, 0, 0, 0, b"\0")
    commitment = gradient_ledger.commit_gradient(TASK, 0, 0, 1, Hash32(b"\1" * 32))
    elsewhere = gradient_ledger.commit_gradient(TaskId(77), 0, 0, 1, Hash32(b"\1" * 32))
    selector = commitment.data[:4]
    found = [
        (OPERATORS[3], ready, True),
        (OPERATORS[0], verdict, True),
        (ANN, commitment, True),
        # The same calls by other accounts, or malformed, are ordinary transactions.
        (UNREGISTERED, ready, False),
        (ANN, verdict, False),
        (UNREGISTERED, commitment, False),
        (ANN, elsewhere, False),
        (ANN, replace(commitment, data=selector), False),
        (ANN, replace(commitment, data=selector + b"\xff" * 200), False),
        (ANN, replace(commitment, data=selector + bytes(23) + b"\1" + bytes(8)), False),
        (ANN, replace(commitment, data=commitment.data + bytes(1_000)), False),
        (ANN, replace(commitment, to=TRAINING_TOKEN), False),
        (OPERATORS[0], replace(verdict, data=verdict.data + bytes(16_384)), False),
        (OPERATORS[0], EMPTY_CALL, False),
    ]
    for signer, call, has_subject in found:
        draft = chain.draft(signer, call, gas=300_000)
        assert (chain.rules.find_subject(draft) is not None) == has_subject
    for gas in (LEAST_COMMITMENT_GAS - 1, 3_000_000):
        assert chain.rules.find_subject(chain.draft(ANN, commitment, gas=gas)) is None
    paying = chain.draft(ANN, commitment, gas=300_000, value=1)
    assert chain.rules.find_subject(paying) is None
    listing = {"address": to_hex(commitment.to), "storageKeys": [to_hex(bytes(32))]}
    long = chain.draft(ANN, commitment, gas=300_000, accessList=[listing])
    assert chain.rules.find_subject(long) is None


def test_operators_share_the_turns_of_what_is_about_proposals(chain: TrainingChain) -> None:
    calls = [
        (validator_set.vote_on_proposal(1), True),
        (validator_set.carry_out(1), True),
        (validator_set.remove_exiting(GENESIS_SET.validators[1]), True),
        (ContractCall(VALIDATOR_SET, CONTRACT.compute_selector("reportEquivocation")), False),
        (ContractCall(VALIDATOR_SET, CONTRACT.compute_selector("reportLostLock")), False),
        (gradient_ledger.advance_round(TASK), False),
    ]
    for call, has_common_turn in calls:
        subject = chain.rules.find_subject(chain.draft(OPERATORS[0], call))
        assert subject is not None
        assert subject.has_common_turn is has_common_turn


def test_only_the_commitment_that_is_due_has_priority(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path)
    chain.submit()
    chain.activate()
    chain.register()
    due = gradient_ledger.commit_gradient(TASK, 0, 0, 1, Hash32(b"\1" * 32))
    assert chain.rules.classify(chain.draft(ANN, due, gas=300_000)) is Priority.COMMITMENT
    others = [
        chain.draft(
            ANN, gradient_ledger.commit_gradient(TASK, 7, 0, 1, Hash32(bytes(32))), gas=300_000
        ),
        chain.draft(
            ANN, gradient_ledger.commit_gradient(TASK, 0, 3, 1, Hash32(bytes(32))), gas=300_000
        ),
        chain.draft(
            ANN, gradient_ledger.commit_gradient(TASK, 0, 0, 9, Hash32(bytes(32))), gas=300_000
        ),
    ]
    assert [chain.rules.classify(each) for each in others] == [Priority.ORDINARY] * len(others)
    chain.commit()
    again = chain.rules.classify(chain.draft(ANN, due, gas=300_000))
    assert again is Priority.ORDINARY
    subjects = {
        chain.rules.find_subject(chain.draft(ANN, call, gas=300_000))
        for call in (due, gradient_ledger.commit_gradient(TASK, 1, 0, 1, Hash32(b"\2" * 32)))
    }
    assert len(subjects) == 1


class CountingContracts:
    """The contracts of a chain; counts the calls that are executed."""

    def __init__(self, contracts: ContractReader) -> None:
        self._contracts = contracts
        self.executed = 0

    def examine(self, sender: Address, wanted: ContractCall, gas_limit: int) -> Examination:
        self.executed += 1
        return self._contracts.examine(sender, wanted, gas_limit)

    def next_moment(self) -> tuple[BlockNumber, int]:
        return self._contracts.next_moment()


def with_counter(chain: TrainingChain) -> tuple[HeadRules, CountingContracts]:
    contracts = CountingContracts(chain.contracts)
    rules = HeadRules(
        store=chain.store,
        database=chain.local.database,
        config=chain.local.config,
        contracts=contracts,  # type: ignore[arg-type]  # it has what the rules use
    )
    return rules, contracts


def test_storage_shows_which_commitments_the_ledger_refuses(chain: TrainingChain) -> None:
    rules, contracts = with_counter(chain)
    for place in product((0, 1), (0, 1), (1, 2)):
        call = gradient_ledger.commit_gradient(TASK, *place, Hash32(b"\1" * 32))
        given = chain.draft(ANN, call, gas=300_000)
        is_accepted = chain.contracts.simulate(given.sender, call, 300_000) is None
        assert (rules.classify(given) is Priority.COMMITMENT) == is_accepted == (place == (0, 0, 1))
        cut = chain.draft(ANN, replace(call, data=call.data[:-1]), gas=300_000)
        assert rules.classify(cut) is Priority.ORDINARY
    assert contracts.executed == 1


def test_ledger_executes_one_commitment_of_a_miner_at_a_head(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path)
    chain.submit()
    chain.activate()
    chain.register()
    rules, contracts = with_counter(chain)
    for _ in range(2):
        for miner, units in ((ANN, 1), (BEN, 2)):
            call = gradient_ledger.commit_gradient(TASK, 0, 0, units, Hash32(b"\1" * 32))
            due = chain.draft(miner, call, gas=300_000)
            assert rules.classify(due) is Priority.COMMITMENT
        assert contracts.executed == 2
    chain.local.extend()
    assert rules.classify(due) is Priority.COMMITMENT
    assert contracts.executed == 3


def test_contracts_execute_little_gas_of_calls_that_they_refuse(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path)
    chain.submit()
    rules, contracts = with_counter(chain)
    # Each takes half a million units of gas, most of it for its data.
    junk = gradient_ledger.post_verdict(TASK, 9, 0, 0, b"\1" * 12_000)
    refused, due = chain.draft(OPERATORS[0], junk), task_registry.answer_task(TASK, 0)
    for _ in range(9):
        assert rules.classify(refused) is Priority.ORDINARY
    assert (contracts.executed, rules.is_examinable(refused)) == (4, False)
    # So none of the liar's calls is examined, and those of others are.
    assert rules.classify(chain.draft(OPERATORS[0], due)) is Priority.ORDINARY
    assert rules.classify(chain.draft(OPERATORS[1], due)) is Priority.OPERATOR_VOTE
    chain.local.extend()
    assert rules.classify(chain.draft(OPERATORS[0], due)) is Priority.OPERATOR_VOTE


def test_only_votes_that_the_phase_expects_have_priority(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path)
    chain.submit()
    chain.activate()
    chain.register()
    again = chain.draft(OPERATORS[0], task_registry.answer_task(TASK, 1))
    assert chain.rules.classify(again) is Priority.ORDINARY
    late_answer = chain.draft(OPERATORS[3], task_registry.answer_task(TASK, 1))
    assert chain.rules.classify(late_answer) is Priority.OPERATOR_VOTE
    early = [
        gradient_ledger.post_verdict(TASK, 0, 0, 0, b"\0"),
        gradient_ledger.post_result(TASK, 0, 0, 0, chain.compute_vote(), 1, 1),
    ]
    for call in early:
        assert chain.rules.classify(chain.draft(OPERATORS[3], call)) is Priority.ORDINARY
    chain.commit()
    verdict = chain.draft(OPERATORS[3], gradient_ledger.post_verdict(TASK, 0, 0, 0, b"\0"))
    assert chain.rules.classify(verdict) is Priority.OPERATOR_VOTE


def test_only_the_duty_that_is_due_has_priority_and_only_of_an_operator(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path)
    chain.submit()
    chain.activate()
    chain.register()
    advance = gradient_ledger.advance_round(TASK)
    settle = gradient_ledger.settle_round(TASK, chain.compute_vote())
    expire = task_registry.expire_task(TASK)
    fines = miner_seats.slash(TASK, 0, [])
    seats = miner_seats.end_seats(TASK, [address_of(ANN)])

    def list_accepted() -> list[ContractCall]:
        drafts = {
            call: chain.draft(OPERATORS[3], call) for call in (advance, settle, expire, seats)
        }
        for call, draft in drafts.items():
            assert chain.rules.find_subject(draft) is not None
            assert chain.rules.find_subject(chain.draft(ANN, call)) is None
        return [
            call
            for call, draft in drafts.items()
            if chain.rules.classify(draft) is Priority.OPERATOR_VOTE
        ]

    assert chain.rules.find_subject(chain.draft(OPERATORS[3], fines)) is None
    assert list_accepted() == []
    chain.commit()
    chain.judge()
    chain.agree()
    assert list_accepted() == [settle]
    chain.settle()
    assert list_accepted() == []


def test_accounts_are_read_at_the_current_head(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path)
    sender = address_of(SUBMITTER)
    assert chain.rules.nonce(sender) == 0
    assert chain.rules.balance(sender) == 0
    first = chain.draft(SUBMITTER, training_token.approve(TRAINING_TOKEN, TASK_REGISTRY, 1))
    chain.rules.validate(first)
    chain.finalize(first.raw)
    assert chain.rules.nonce(sender) == 1
    with pytest.raises(InvalidTransaction):
        chain.rules.validate(decode_transaction(first.raw))
