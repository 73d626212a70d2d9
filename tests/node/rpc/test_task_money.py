"""The sums that `pot_getTask` shows are those that the accounts and contracts see."""

from collections.abc import Mapping
from pathlib import Path

from chain.contracts import task_registry, training_token
from chain.contracts.addresses import TASK_REGISTRY, TRAINING_TOKEN
from chain.contracts.task_registry import Purchase
from tests.worlds.rpc import RpcHarness, rpc_harness
from tests.worlds.training_chain import (
    ANN,
    BUDGET,
    GENESIS_SET,
    OPERATORS,
    POT,
    SPEC,
    SUBMITTER,
    TASK,
    TrainingChain,
    address_of,
)

BOUGHT = Purchase(lifetime_seconds=3_600, attempts=10)


def read_amounts(value: object) -> Mapping[str, int]:
    assert isinstance(value, dict)
    return {key: int(each) for key, each in value.items() if isinstance(each, str)}


def balance_of(chain: TrainingChain, account: bytes) -> int:
    view = training_token.balance_of(TRAINING_TOKEN, account)  # type: ignore[arg-type]
    return chain.contracts.read(view)


def check_sums(
    chain: TrainingChain, rpc: RpcHarness
) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Compare what the node shows with the contracts' own books; there is no other task."""
    shown = rpc.result("pot_getTask", TASK)
    account, fee = read_amounts(shown["account"]), read_amounts(shown["fee"])
    assert fee["paid"] == fee["burnt"] + fee["answers"] + fee["returned"] + fee["held"]
    assert fee["burnt"] == chain.contracts.read(task_registry.get_burnt())
    answers = (task_registry.get_examination_pay(each) for each in GENESIS_SET.operators)
    assert fee["answers"] == sum(map(chain.contracts.read, answers))
    parts = ("paidToMiners", "paidToValidators", "reserved", "refundable", "refunded")
    assert account["escrowed"] == sum(account[part] for part in parts)
    spent = fee["paid"] - fee["returned"] + account["escrowed"] - account["refunded"]
    assert balance_of(chain, TASK_REGISTRY) == spent, "no reward is claimed, and no pay taken"
    return account, fee


def test_submitter_can_reconcile_budget_and_fee_at_every_step(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path / "database")
    before = balance_of(chain, address_of(SUBMITTER))

    def extend() -> None:
        approve = training_token.approve(TRAINING_TOKEN, TASK_REGISTRY, 10 * POT)
        call = task_registry.extend_task(TASK, BOUGHT, 10 * POT)
        chain.finalize(chain.call(ANN, approve), chain.call(ANN, call))

    with rpc_harness(tmp_path, chain.local) as rpc:
        chain.submit()
        _, submitted = check_sums(chain, rpc)
        assert before - balance_of(chain, address_of(SUBMITTER)) == BUDGET + submitted["paid"]
        extend()
        _, longer = check_sums(chain, rpc)
        assert longer["paid"] > submitted["paid"]
        assert longer["burnt"] == submitted["burnt"], "the rent of a pending task is held"
        chain.activate()
        _, active = check_sums(chain, rpc)
        assert (
            active["burnt"] - longer["burnt"]
            == longer["held"] - active["held"] - (active["answers"])
        )
        assert active["answers"] > 0
        extend()
        _, extended = check_sums(chain, rpc)
        assert extended["held"] == active["held"]
        for step in (chain.register, chain.commit, chain.judge, chain.agree, chain.settle):
            step()
            check_sums(chain, rpc)
        account, _ = check_sums(chain, rpc)
        assert account["paidToMiners"] == SPEC.reward.unit_price
        assert account["paidToValidators"] == SPEC.reward.validator_fee
        assert len(OPERATORS) * (SPEC.reward.validator_fee // 4) == account["paidToValidators"]
        chain.cancel()
        check_sums(chain, rpc)


def test_what_a_cancelled_task_gives_back_is_shown(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path / "database")
    before = balance_of(chain, address_of(SUBMITTER))
    with rpc_harness(tmp_path, chain.local) as rpc:
        chain.submit()
        chain.cancel()
        refunds = (task_registry.refund_fee(TASK), task_registry.refund_task(TASK))
        chain.finalize(*(chain.call(ANN, each) for each in refunds))
        account, fee = check_sums(chain, rpc)
        lost = before - balance_of(chain, address_of(SUBMITTER))
    assert (account["refunded"], account["refundable"]) == (BUDGET, 0)
    assert fee["returned"] > 0, "the rent for the lifetime"
    assert lost == fee["burnt"] + fee["held"]
