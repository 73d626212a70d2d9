"""The summary of a development network, read from the chain after its task has ended.

README.md, "Try it".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chain.contracts.addresses import GRADIENT_LEDGER
from chain.contracts.events import EVENT_LAYOUTS
from chain.contracts.gradient_ledger import GradientCommitted
from chain.contracts.training_token import balance_of
from chain.hexadecimal import from_hex, to_hex
from chain.json_types import Json, JsonObject
from chain.primitives import Address
from chain.training.task_spec import (
    PPM,
)
from node.client.rpc_client import RpcClient, get_integer, get_objects, get_text, get_value

MILLINATS: Final = 1_000
"""Millinats in one nat."""


def fetch_rounds(client: RpcClient, task: int, count: int) -> tuple[JsonObject, ...]:
    """The answers of pot_getRound for the first `count` rounds of a task, which are settled."""
    rounds = (client.call_object("pot_getRound", task, number) for number in range(count))
    return tuple(round_ for round_ in rounds if round_ is not None)


def summarize_round(round_: JsonObject) -> JsonObject:
    """The entry of one round."""
    accepted = _list_accepted(round_)
    loss, accuracy = get_value(round_, "lossMillinats"), get_value(round_, "accuracyPpm")
    return {
        "round": get_integer(round_, "round"),
        "block_number": get_integer(round_, "blockNumber"),
        "model_root": get_text(round_, "result", "modelRoot"),
        "training_state_root": get_text(round_, "result", "trainingStateRoot"),
        "accepted": len(accepted),
        "rejected": len(get_objects(round_, "commitments")) - len(accepted),
        "loss": loss / MILLINATS if isinstance(loss, int) else None,
        "accuracy": accuracy / PPM if isinstance(accuracy, int) else None,
        "seconds": get_integer(round_, "seconds"),
    }


def _list_accepted(round_: JsonObject) -> list[Json]:
    accepted = round_.get("accepted")
    return accepted if isinstance(accepted, list) else []


@dataclass(frozen=True, slots=True)
class MinerUnits:
    """The verdicts on a miner's units, in all settled rounds."""

    accepted: int = 0
    rejected: int = 0


def count_units(rounds: Sequence[JsonObject]) -> Mapping[str, MinerUnits]:
    """The units of every miner, by its account in hexadecimal."""
    counts: dict[str, MinerUnits] = {}
    for round_ in rounds:
        accepted = _list_accepted(round_)
        for commitment in get_objects(round_, "commitments"):
            miner = get_text(commitment, "miner").lower()
            units = get_integer(commitment, "units")
            before = counts.get(miner, MinerUnits())
            is_accepted = get_integer(commitment, "index") in accepted
            counts[miner] = MinerUnits(
                accepted=before.accepted + (units if is_accepted else 0),
                rejected=before.rejected + (0 if is_accepted else units),
            )
    return counts


def summarize_miner(
    client: RpcClient, task: int, token: Address, miner: Address, units: MinerUnits
) -> JsonObject:
    """The entry of one miner, with amounts in base units."""
    proof = client.call_object("pot_getRewardProof", task, to_hex(miner))
    return {
        "address": to_hex(miner),
        "units_accepted": units.accepted,
        "units_rejected": units.rejected,
        "claimed": str(get_integer(proof, "claimed")),
        "balance": str(client.read(balance_of(token, miner))),
    }


def summarize_validators(clients: Sequence[RpcClient]) -> list[Json]:
    """The entry of each validator, as its node describes itself; None for one that is down."""
    entries: list[Json] = []
    for client in clients:
        info = client.call_object("pot_nodeInfo") if client.is_ready() else None
        entries.append(
            {
                "address": get_value(info, "validator"),
                "peer_id": get_value(info, "peerId"),
                "rpc_url": client.url,
                "head_number": get_value(info, "head", "number"),
                "head_hash": get_value(info, "head", "hash"),
            }
        )
    return entries


def count_transactions(client: RpcClient, last_block: int) -> int:
    """The number of transactions in blocks 1 to `last_block`."""
    total = 0
    for number in range(1, last_block + 1):
        block = client.call_object("eth_getBlockByNumber", hex(number), False)
        transactions = get_value(block, "transactions")
        total += len(transactions) if isinstance(transactions, list) else 0
    return total


def count_commitments(client: RpcClient, last_block: int) -> int:
    """The number of gradient commitments in blocks 1 to `last_block`, including void attempts."""
    topic = next(layout.topic for layout in EVENT_LAYOUTS if layout.kind is GradientCommitted)
    return sum(1 for _ in client.logs((GRADIENT_LEDGER,), [to_hex(topic)], 1, last_block))


def build_summary(
    clients: Sequence[RpcClient],
    client: RpcClient,
    task: int,
    *,
    miners: Sequence[Address],
    initial_accuracy: float,
    model_file: Path,
    wall_seconds: float,
) -> JsonObject:
    """The whole summary.

    Args:
        clients: A client of every validator.
        client: A client of a validator that answers.
        task: The id of a closed task.
        miners: The accounts of the miners.
        initial_accuracy: The accuracy of the initial weights, from 0 to 1.
        model_file: The path of the downloaded model.
        wall_seconds: Seconds since the start.
    """
    info = client.call_object("pot_nodeInfo")
    found = client.call_object("pot_getTask", task)
    settled = get_integer(found, "roundsSettled")
    rounds = fetch_rounds(client, task, settled)
    entries = [summarize_round(round_) for round_ in rounds]
    evaluated = [entry for entry in entries if entry["accuracy"] is not None]
    units = count_units(rounds)
    token = Address(from_hex(get_text(found, "terms", "token")))
    last_block = get_integer(info, "head", "number")
    return {
        "chain_id": get_integer(info, "chainId"),
        "genesis_hash": get_text(info, "genesisHash"),
        "wall_seconds": round(wall_seconds, 1),
        "blocks": last_block,
        "transactions": count_transactions(client, last_block),
        "gradient_commitments": count_commitments(client, last_block),
        "validators": summarize_validators(clients),
        "task": {
            "id": task,
            "spec_hash": get_text(found, "specHash"),
            "rounds_planned": get_integer(found, "terms", "rounds"),
            "rounds_settled": settled,
            "initial_accuracy": initial_accuracy,
            "final_accuracy": evaluated[-1]["accuracy"] if evaluated else None,
            "final_loss": evaluated[-1]["loss"] if evaluated else None,
            "model_root": get_text(found, "modelRoot"),
            "training_state_root": get_text(found, "trainingStateRoot"),
            "model_file": str(model_file),
            "rounds": list(entries),
        },
        "miners": [
            summarize_miner(client, task, token, miner, units.get(to_hex(miner), MinerUnits()))
            for miner in miners
        ],
    }
