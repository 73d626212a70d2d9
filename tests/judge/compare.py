"""Builds random blocks with our engine, lets the reference execute them, and compares."""

import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from chain.builder import BuiltBlock
from chain.errors import InvalidTransaction, RejectionReason
from chain.genesis import HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE, GenesisAccount
from chain.primitives import Address
from chain.types.transaction import Transaction, decode_transaction
from tests.judge.blocks import RandomChain
from tests.judge.environment import ensure_environment

BLOCKS_A_CHAIN = 10
"""Short chains keep the state small; the reference copies it for every call."""

IMPORTED_EVERY = 5
"""Importing uses the same code as building, so one block in five is imported, too."""

OWN_RULES = frozenset(
    {RejectionReason.TRANSACTION_TYPE, RejectionReason.GAS_CAP, RejectionReason.WRONG_CHAIN}
)
"""Reasons for which we refuse what the reference accepts: blobs, a gas limit above the cap of one
transaction, and another chain's id, which the reference leaves to the caller to compare
(docs/spec/state-transition.md, section 4)."""

Answer = dict[str, object]


@dataclass(frozen=True)
class Step:
    """A request to the reference, and our answer to it."""

    seed: int
    number: int
    request: dict[str, object]
    ours: Answer
    reasons: tuple[RejectionReason | None, ...] = ()
    skipped: frozenset[int] = frozenset()
    """Candidates of senders that had one before that did not fit: the builder looks at none of
    them, so there is nothing to compare."""
    """Why we refused each candidate; None if it is in the block."""


def play(chain: RandomChain, seed: int, block_count: int = BLOCKS_A_CHAIN) -> Iterator[Step]:
    """The genesis of a random chain, and its blocks."""
    chain_id, head = chain.chain.config.chain_id, chain.chain.head
    accounts = {
        **chain.chain.config.alloc,
        HISTORY_STORAGE_ADDRESS: GenesisAccount(nonce=1, code=HISTORY_STORAGE_CODE),
    }
    alloc = {
        address.hex(): {
            "nonce": account.nonce,
            "balance": str(account.balance),
            "code": account.code.hex(),
            "storage": {str(slot): str(value) for slot, value in account.storage.items()},
        }
        for address, account in accounts.items()
    }
    world = {"chain_id": chain_id, "alloc": alloc}
    yield Step(seed, 0, {"world": world}, {"state_root": head.state_root.hex()})
    for _ in range(block_count):
        yield _extend(chain, seed)


def _extend(chain: RandomChain, seed: int) -> Step:
    """Build, import and finalize the next block."""
    raws = chain.draw_candidates()
    refusals: dict[int, RejectionReason] = {}
    candidates: dict[int, Transaction] = {}
    for index, raw in enumerate(raws):
        try:
            candidates[index] = decode_transaction(raw)
        except InvalidTransaction as error:
            refusals[index] = error.reason
    parent = chain.chain.head
    built = chain.chain.build(candidates.values())
    assert built.stopped == ()
    if built.block.number % IMPORTED_EVERY == 0:
        assert chain.chain.apply(built.block) == built.result
    refusals |= _find_refusals(candidates, built)
    chain.chain.database.update(built.result.delta)
    chain.chain.head = header = built.block.header
    request = {
        "number": header.number,
        "parent_hash": parent.hash.hex(),
        "coinbase": header.coinbase.hex(),
        "timestamp": header.timestamp,
        "gas_limit": header.gas_limit,
        "base_fee_per_gas": header.base_fee_per_gas,
        "mix_hash": header.mix_hash.hex(),
        "candidates": [
            {"raw": raw.hex(), "included": index not in refusals} for index, raw in enumerate(raws)
        ],
    }
    ours = {
        "state_root": header.state_root.hex(),
        "transactions_root": header.transactions_root.hex(),
        "receipts_root": header.receipts_root.hex(),
        "logs_bloom": header.logs_bloom.hex(),
        "gas_used": header.gas_used,
        "receipts": [
            [receipt.status, receipt.cumulative_gas_used] for receipt in built.result.receipts
        ],
    }
    reasons = tuple(refusals.get(index) for index in range(len(raws)))
    skipped = _find_skipped(candidates, built)
    return Step(seed, header.number, {"block": request}, ours, reasons, skipped)


def _find_refusals(
    candidates: dict[int, Transaction], built: BuiltBlock
) -> dict[int, RejectionReason]:
    dropped = {id(drop.transaction): drop.error.reason for drop in built.dropped}
    included = {id(transaction) for transaction in built.result.transactions}
    return {
        # A candidate that is neither in the block nor dropped did not fit.
        index: dropped.get(id(transaction), RejectionReason.GAS_LIMIT)
        for index, transaction in candidates.items()
        if id(transaction) not in included
    }


def _find_skipped(candidates: dict[int, Transaction], built: BuiltBlock) -> frozenset[int]:
    decided = {id(drop.transaction) for drop in built.dropped}
    decided |= {id(transaction) for transaction in built.result.transactions}
    left_out = [i for i, transaction in candidates.items() if id(transaction) not in decided]
    senders: set[Address] = set()
    skipped = set()
    for index in sorted(left_out):
        sender = candidates[index].sender
        if sender in senders:
            skipped.add(index)
        senders.add(sender)
    return frozenset(skipped)


def find_differences(step: Step, theirs: Answer) -> list[str]:
    """What the two implementations disagree on, in words; empty if they agree."""
    if theirs.get("is_lost"):
        return []  # an earlier block of this chain differs
    where = f"seed {step.seed}, block {step.number}"
    found = [
        f"{where}: {name} is {str(theirs.get(name))[:400]}, ours {str(value)[:400]}"
        for name, value in step.ours.items()
        if theirs.get(name) != value
    ]
    refusals = theirs.get("refusals", [])
    assert isinstance(refusals, list)
    for index, (reason, refusal) in enumerate(zip(step.reasons, refusals, strict=False)):
        is_known = reason in OWN_RULES or index in step.skipped
        if (reason is None) != (refusal == "") and not is_known:
            found.append(f"{where}: candidate {index} is refused: {refusal!r}, ours {reason!r}")
    return found


class Reference:
    """The second implementation, in a process of its own that works beside this one."""

    def __init__(self) -> None:
        script = Path(__file__).with_name("reference.py")
        self._process = subprocess.Popen(
            [str(ensure_environment()), "-I", str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answers: list[Answer] = []
        self._reader = Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as answers:
            for line in answers:
                self._answers.append(json.loads(line))

    def ask(self, request: dict[str, object]) -> None:
        """Send a request; `finish` returns all answers."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")

    def finish(self) -> list[Answer]:
        """Wait for the answers to all requests, in their order."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join()
        assert self._process.wait() == 0, "the reference failed; its error is above"
        return self._answers


@dataclass(frozen=True)
class Comparison:
    """Many blocks of both implementations."""

    steps: tuple[Step, ...]
    answers: tuple[Answer, ...]
    """The reference's answer to each step."""
    table: dict[tuple[str, str], int]
    """How often each opcode and precompile had each outcome."""

    @property
    def differences(self) -> list[str]:
        """What the implementations disagree on, in words."""
        pairs = zip(self.steps, self.answers, strict=True)
        return [line for step, answer in pairs for line in find_differences(step, answer)]


def compare(seeds: Iterable[int], block_count: int = BLOCKS_A_CHAIN) -> Comparison:
    """Compare the chains of these seeds, with so many blocks each."""
    reference = Reference()
    steps: list[Step] = []
    try:
        for seed in seeds:
            for step in play(RandomChain(seed), seed, block_count):
                steps.append(step)
                reference.ask(step.request)
    finally:
        reference.ask({"table": True})
        *answers, last = reference.finish()
    rows = last["table"]
    assert isinstance(rows, list)
    return Comparison(
        tuple(steps), tuple(answers), {(name, outcome): count for name, outcome, count in rows}
    )
