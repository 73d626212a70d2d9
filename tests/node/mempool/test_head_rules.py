"""The mempool's rules at the head: every refusal by its reason, and who is served first."""

from pathlib import Path

import pytest
from eth_account import Account as Signer

from chain.contracts.addresses import GRADIENT_LEDGER, TASK_REGISTRY, TRAINING_TOKEN
from chain.contracts.gradient_ledger import encode_commit_gradient, encode_post_verdict
from chain.contracts.task_registry import encode_post_ready
from chain.contracts.training_token import encode_approve
from chain.errors import InvalidTransaction, RejectionReason
from chain.primitives import Hash32, TaskId
from chain.types.transaction import decode_transaction
from node.mempool.pool import Priority
from tests.worlds.stored_chain import CHAIN_ID
from tests.worlds.training_chain import (
    ANN,
    OPERATORS,
    SUBMITTER,
    TASK,
    TrainingChain,
    address_of,
)

STRANGER = Signer.from_key(b"\x55" * 32)


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
        ({"gas": 2**25}, RejectionReason.GAS_LIMIT),
        ({"value": 10**30}, RejectionReason.INSUFFICIENT_FUNDS),
    ],
)
def test_each_rule_refuses_by_its_reason(
    chain: TrainingChain, changes: dict[str, object], reason: RejectionReason
) -> None:
    transaction = chain.draft(SUBMITTER, TRAINING_TOKEN, b"", **changes)
    with pytest.raises(InvalidTransaction) as refused:
        chain.rules.validate(transaction)
    assert refused.value.reason is reason


def test_a_nonce_that_is_not_due_yet_is_no_reason(chain: TrainingChain) -> None:
    nonce = chain.rules.nonce(address_of(SUBMITTER))
    for ahead in (0, 1, 60):
        chain.rules.validate(chain.draft(SUBMITTER, TRAINING_TOKEN, b"", nonce=nonce + ahead))


def test_votes_are_operators_and_commitments_are_miners(chain: TrainingChain) -> None:
    ready = encode_post_ready(TASK)
    verdict = encode_post_verdict(TASK, 0, 0, 0, b"\0")
    commitment = encode_commit_gradient(TASK, 0, 0, 1, Hash32(b"\1" * 32))
    elsewhere = encode_commit_gradient(TaskId(77), 0, 0, 1, Hash32(b"\1" * 32))
    classified = [
        (OPERATORS[3], TASK_REGISTRY, ready, Priority.OPERATOR_VOTE),
        (OPERATORS[0], GRADIENT_LEDGER, verdict, Priority.OPERATOR_VOTE),
        (ANN, GRADIENT_LEDGER, commitment, Priority.COMMITMENT),
        # Whoever merely says so waits with everybody else.
        (STRANGER, TASK_REGISTRY, ready, Priority.ORDINARY),
        (ANN, GRADIENT_LEDGER, verdict, Priority.ORDINARY),
        (STRANGER, GRADIENT_LEDGER, commitment, Priority.ORDINARY),
        (ANN, GRADIENT_LEDGER, elsewhere, Priority.ORDINARY),
        (ANN, GRADIENT_LEDGER, commitment[:4], Priority.ORDINARY),
        (ANN, GRADIENT_LEDGER, commitment[:4] + b"\xff" * 200, Priority.ORDINARY),
        (ANN, GRADIENT_LEDGER, commitment[:4] + bytes(23) + b"\1" + bytes(8), Priority.ORDINARY),
        (ANN, TRAINING_TOKEN, commitment, Priority.ORDINARY),
        (OPERATORS[0], TRAINING_TOKEN, b"", Priority.ORDINARY),
    ]
    for signer, to, data, priority in classified:
        assert chain.rules.classify(chain.draft(signer, to, data)) is priority


def test_accounts_are_read_at_the_head_of_the_moment(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path)
    sender = address_of(SUBMITTER)
    assert chain.rules.nonce(sender) == 0
    assert chain.rules.balance(sender) == 0
    first = chain.draft(SUBMITTER, TRAINING_TOKEN, encode_approve(TASK_REGISTRY, 1))
    chain.rules.validate(first)
    chain.finalize(first.raw)
    assert chain.rules.nonce(sender) == 1
    with pytest.raises(InvalidTransaction):
        chain.rules.validate(decode_transaction(first.raw))
