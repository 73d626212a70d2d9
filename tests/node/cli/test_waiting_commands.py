"""Commands of an account of which other transactions wait for a block."""

from pathlib import Path

import pytest

from chain.contracts.addresses import TRAINING_TOKEN
from chain.contracts.task_registry import cancel_task
from tests.node.cli.test_money_commands import Accounts
from tests.worlds.command_line import Pot
from tests.worlds.rpc import rpc_harness, served
from tests.worlds.training_chain import SUBMITTER, TASK, TrainingChain

GWEI = 10**9


def test_paid_command_drops_no_other_one_that_waits(
    pot: Pot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation that waited for free gas vanished when money was sent with a price."""
    monkeypatch.setattr("pot_common.rpc_client.RECEIPT_SECONDS", 0.2)
    notes: list[str] = []
    monkeypatch.setattr("node.cli.account.print_note", notes.append)
    chain = TrainingChain(tmp_path / "database")
    chain.submit()
    key = Accounts(tmp_path)(SUBMITTER)
    with rpc_harness(tmp_path, chain.local) as rpc, served(rpc) as url:
        rpc.node.holding = True
        assert "is not in a block" in pot.fails("task", "cancel", TASK, *key, "--rpc", url)
        (free,) = rpc.node.pool.values()
        money = ("--to", "0x" + "22" * 20, "--amount", "1")
        send = ("wallet", "send", *key, *money, "--gas-price", GWEI, "--rpc", url)
        assert "is not in a block" in pot.fails(*send)
    told = f"before it waits cancelTask (nonce {free.nonce}), which now pays the same price"
    assert notes == [told]
    *_, cancelled, sent = rpc.node.pool.values()
    assert (cancelled.nonce, cancelled.to) == (free.nonce, cancel_task(TASK).to)
    assert cancelled.data == free.data == cancel_task(TASK).data
    assert (sent.nonce, sent.to) == (free.nonce + 1, TRAINING_TOKEN)
    assert {cancelled.max_priority_fee_per_gas, sent.max_priority_fee_per_gas} == {GWEI}
