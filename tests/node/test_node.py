"""The composed node: reasons not to start, and the accounts that it signs for."""

import json
from pathlib import Path
from typing import Literal

import pytest

from chain.contracts import task_registry
from chain.crypto import get_address, keccak256
from chain.primitives import Address, PrivateKey, TaskId
from node.config import NodeConfig, VerifierSection
from node.consensus.served_blocks import ServedBlocks
from node.genesis import load_genesis, open_chain
from node.mempool.intake import Pool
from node.mempool.pool import Mempool
from node.node import _build_workers
from node.operator.account import OperatorAccount, check_operator
from pot_common.errors import OperatorError
from tests.worlds.cluster import KEYS
from tests.worlds.training_chain import GENESIS_SET, OPERATORS, TASK, TrainingChain


def configured(path: Path, genesis: bytes | None) -> NodeConfig:
    if genesis is not None:
        (path / "genesis.json").write_bytes(genesis)
    return NodeConfig(data_dir=path / "data", genesis=path / "genesis.json")


@pytest.mark.parametrize(
    ("genesis", "said"),
    [
        (None, "cannot read the genesis file"),
        (b"no JSON", "is not JSON"),
        (b'{"config": {"chainId": 5}, "gasLimit": "0x1c9c380", "alloc": {}}', "no validators"),
    ],
)
def test_a_genesis_that_is_none_is_named_with_its_cure(
    tmp_path: Path, genesis: bytes | None, said: str
) -> None:
    with pytest.raises(OperatorError, match=said) as refused:
        load_genesis(configured(tmp_path, genesis))
    assert str(tmp_path / "genesis.json") in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_directory_holds_one_chain_for_ever(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path / "other")
    genesis = chain.store.genesis_config()
    config = configured(tmp_path, genesis)
    for _ in range(2):
        _, database, store = open_chain(config)
        assert store.genesis_hash() == chain.store.genesis_hash()
        database.close()
    changed = json.loads(genesis)
    changed["timestamp"] = "0x1"
    (tmp_path / "genesis.json").write_text(json.dumps(changed))
    with pytest.raises(OperatorError, match="data_dir holds another chain"):
        open_chain(config)


def test_an_operator_key_of_another_validator_is_refused_by_setting(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path)
    account = operator_account(chain, 1)
    operator = check_operator(account, GENESIS_SET.validators[1], GENESIS_SET)
    assert GENESIS_SET.find_operator(operator.address) == 1
    # A candidate has both keys before it is a validator.
    candidate = operator_account(chain, 3)
    assert check_operator(candidate, Address(b"\x07" * 20), GENESIS_SET).address
    with pytest.raises(OperatorError, match=r"operator\.key_file holds"):
        check_operator(account, GENESIS_SET.validators[2], GENESIS_SET)
    with pytest.raises(OperatorError, match="set both or none"):
        check_operator(account, None, GENESIS_SET)


class ClusterSigner:
    """A consensus key of another network."""

    address = get_address(KEYS[0])


def operator_account(chain: TrainingChain, index: int) -> OperatorAccount:
    mempool = Mempool(chain.rules)
    key = PrivateKey(bytes(OPERATORS[index].key))
    return OperatorAccount(key, chain.local.config, chain.store, Pool(mempool), mempool)


async def test_an_operators_votes_have_nonces_in_order_and_are_includable(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path)
    chain.submit()
    account = operator_account(chain, 0)
    for task_id in (TASK, 2, 3):
        await account.send(task_registry.answer_task(TaskId(task_id), 0), 1_500_000)
    sent = list(account._mempool.candidates().transactions)
    assert [each.nonce for each in sent] == [0, 1, 2]
    assert {each.sender for each in sent} == {GENESIS_SET.operators[0]}
    chain.finalize(sent[0].raw)
    history = chain.index.history(TASK)
    assert history is not None
    assert history.ready == (GENESIS_SET.validators[0],)


def test_the_block_source_serves_final_blocks_and_knows_no_others(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path)
    chain.finalize()
    chain.finalize()
    for number in (1, 2):
        assert chain.store.certificate(number) is not None
    # Also for the largest number that a peer can request.
    for number in (0, 3, 2**64 - 1):
        assert chain.store.certificate(number) is None
        assert chain.store.encoded_block(number) is None
    source = ServedBlocks(chain.store)
    final = chain.store.block(1)
    assert final is not None
    assert source.find_block(final.hash) == final.encode()
    assert source.find_block(keccak256(b"unknown")) is None
    assert chain.store.block(2**64 - 1) is None
    assert chain.store.encoded_header(2**64 - 1) is None
    assert chain.store.number_of(keccak256(b"unknown")) is None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_dry_run_on_any_device_is_limited_by_processor_time(device: Literal["cpu", "cuda"]) -> None:
    settings = _build_workers(VerifierSection(device=device)).dry_runs._settings
    assert "--processor-seconds" in settings.command
    # By the clock it may take far longer, for other processes must not make a task look slow.
    assert settings.patience > 1
