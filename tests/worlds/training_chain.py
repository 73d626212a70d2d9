"""A stored chain with the real contracts, on which a test plays a training round."""

from dataclasses import replace
from pathlib import Path

from eth_account import Account as Signer
from eth_account.signers.local import LocalAccount

from chain.contracts import gradient_ledger, miner_seats, task_registry, training_token
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import (
    MINER_SEATS,
    REWARD_DISTRIBUTOR,
    TASK_REGISTRY,
    TRAINING_TOKEN,
)
from chain.contracts.gradient_ledger import ResultKind, ResultVote
from chain.contracts.task_registry import Purchase
from chain.crypto import keccak256
from chain.params import BaseFeeMode, ChainParameters
from chain.primitives import ZERO_HASH, Address, Hash32, TaskId
from chain.training.acceptance import Verdict, encode_verdicts
from chain.training.leases import READY_CODE
from chain.training.result_vote import build_empty_vote
from chain.training.rewards import build_reward_tree
from chain.training.task_spec import TaskSpec
from chain.training.task_spec_codec import compute_terms, encode_task_spec
from chain.types.transaction import Transaction, decode_transaction
from chain.types.validator_set import ValidatorSet
from node.chain.contract_reader import ContractReader
from node.chain.training_index import TrainingIndex
from node.clock import Clock
from node.mempool.head_rules import HeadRules
from node.setup.network_genesis import NetworkPlan, Seat, build_network, encode_genesis
from tests.worlds.stored_chain import CHAIN_ID, StoredChain, sign
from tests.worlds.training import SPEC as SMALL

POT = 10**18
TASK = TaskId(1)
START = 2_000_000_000
VALIDATORS = tuple(Address(bytes([0x20 + n]) * 20) for n in range(4))
OPERATORS = tuple(Signer.from_key(bytes([n]) * 32) for n in range(1, 5))
SUBMITTER, ANN, BEN = (Signer.from_key(bytes([n]) * 32) for n in (11, 12, 13))
SPEC = replace(SMALL, reward=replace(SMALL.reward, token=TRAINING_TOKEN, min_miners=2, min_units=2))
BUDGET = 100 * POT
FEE = 60 * POT
"""The most that is paid as fee."""
PURCHASE = Purchase(lifetime_seconds=20 * 86_400, attempts=1_000)


def address_of(signer: LocalAccount) -> Address:
    return Address(bytes.fromhex(signer.address[2:]))


_ACCOUNTS = tuple(map(address_of, (*OPERATORS, SUBMITTER, ANN, BEN)))
GENESIS_SET = ValidatorSet(VALIDATORS, tuple(address_of(each) for each in OPERATORS))


class FixedClock:
    """A clock before genesis, so that the head's timestamp decides."""

    def now_ms(self) -> int:
        return START * 1000


class TrainingChain:
    """Sends calls and finalizes them, a method for each step of a round."""

    def __init__(self, path: Path, *, base_fee_per_gas: int = 0, spec: TaskSpec = SPEC) -> None:
        """Begin at genesis.

        Args:
            path: A folder for the database.
            base_fee_per_gas: The base fee of genesis, and the least one; gas is free with 0. The
                steps of a round pay up to ten times as much.
            spec: The specification of the task.
        """
        self._spec = spec
        seats = tuple(map(Seat, VALIDATORS, GENESIS_SET.operators))
        config = build_network(
            NetworkPlan(
                chain_id=CHAIN_ID,
                seats=seats,
                parameters=ChainParameters(
                    phase_floor_blocks=1,
                    base_fee_mode=BaseFeeMode.EIP1559 if base_fee_per_gas else BaseFeeMode.FIXED,
                    base_fee_floor_wei=base_fee_per_gas,
                ),
                gas_limit=30_000_000,
                base_fee_per_gas=base_fee_per_gas,
                timestamp=START,
                tokens={address_of(each): 1_000 * POT for each in (SUBMITTER, ANN, BEN)},
                coins={} if base_fee_per_gas == 0 else dict.fromkeys(_ACCOUNTS, 1_000 * POT),
            )
        )
        clock: Clock = FixedClock()
        self.local = StoredChain(path, genesis=encode_genesis(config))
        self.store = self.local.store
        self.contracts = ContractReader(self.store, self.local.database, self.local.config, clock)
        self.index = TrainingIndex(self.store)
        self.rules = HeadRules(
            store=self.store,
            database=self.local.database,
            config=self.local.config,
            contracts=self.contracts,
        )
        self._nonces: dict[str, int] = {}
        self._fees = {"maxFeePerGas": 10 * base_fee_per_gas, "maxPriorityFeePerGas": 0}

    def call(self, signer: LocalAccount, call: ContractCall, **fields: object) -> bytes:
        """A raw transaction with the account's next nonce, to be finalized."""
        nonce = self._nonces.get(signer.address, 0)
        self._nonces[signer.address] = nonce + 1
        known = {"nonce": nonce, "gas": 3_000_000, **self._fees, **fields}
        return sign(signer, to="0x" + call.to.hex(), data=call.data, **known)

    def draft(self, signer: LocalAccount, call: ContractCall, **fields: object) -> Transaction:
        """A transaction with the account's next nonce, not to be finalized."""
        nonce = self._nonces.get(signer.address, 0)
        known = {"nonce": nonce, "gas": 3_000_000, **self._fees, **fields}
        return decode_transaction(sign(signer, to="0x" + call.to.hex(), data=call.data, **known))

    def finalize(self, *raw: bytes) -> None:
        self.local.extend(*raw)
        receipts = self.store.receipts(self.store.head_number())
        assert receipts is not None
        assert [receipt.status for receipt in receipts] == [1] * len(raw)

    # The steps of a round.

    def submit(self) -> None:
        terms = compute_terms(self._spec)
        spec = encode_task_spec(self._spec)
        self.finalize(
            self.call(
                SUBMITTER, training_token.approve(TRAINING_TOKEN, TASK_REGISTRY, BUDGET + FEE)
            ),
            self.call(
                SUBMITTER,
                task_registry.submit_task(terms, self._spec.resources, spec, BUDGET, PURCHASE, FEE),
            ),
        )

    def activate(self) -> None:
        ready = task_registry.answer_task(TASK, READY_CODE)
        self.finalize(*(self.call(each, ready) for each in OPERATORS[:3]))

    def register(self) -> None:
        approve = training_token.approve(TRAINING_TOKEN, MINER_SEATS, 500 * POT)
        self.finalize(
            *(self.call(each, approve) for each in (ANN, BEN)),
            self.call(ANN, miner_seats.register(TASK, 1)),
            self.call(BEN, miner_seats.register(TASK, 2)),
            self.call(BEN, gradient_ledger.advance_round(TASK)),
        )
        self.finalize()

    def commit(self) -> None:
        self.finalize(
            *(
                self.call(
                    miner,
                    gradient_ledger.commit_gradient(TASK, 0, 0, units, keccak256(b"gradient")),
                )
                for miner, units in ((ANN, 1), (BEN, 2))
            )
        )
        self.finalize()

    def judge(self, ballot: int = 0) -> None:
        bitmap = encode_verdicts([Verdict.OK, Verdict.CHEAT])
        call = gradient_ledger.post_verdict(TASK, 0, 0, ballot, bitmap)
        self.finalize(*(self.call(each, call) for each in OPERATORS))
        self.finalize()

    def compute_vote(self) -> ResultVote:
        earned = {address_of(ANN): SPEC.reward.unit_price}
        earned |= dict.fromkeys(GENESIS_SET.operators, SPEC.reward.validator_fee // 4)
        tree = build_reward_tree(CHAIN_ID, REWARD_DISTRIBUTOR, TASK, earned)
        return ResultVote(
            Hash32(b"\x71" * 32),
            Hash32(b"\x72" * 32),
            tree.root,
            1,
            sum(earned.values()),
            ResultKind.SETTLED,
            0b1111,
        )

    def agree(self) -> None:
        call = gradient_ledger.post_result(TASK, 0, 0, 0, self.compute_vote(), 15, 700)
        self.finalize(*(self.call(each, call) for each in OPERATORS))

    def settle(self) -> None:
        call = gradient_ledger.settle_round(TASK, self.compute_vote())
        self.finalize(self.call(OPERATORS[0], call))

    def pay_void_attempt(self) -> None:
        """Instead of `agree` and `settle`: no ballot gives a model, but the work is paid."""
        for ballot in range(2):
            failed = build_empty_vote(ResultKind.FAILED, 0b1111)
            call = gradient_ledger.post_result(TASK, 0, 0, ballot, failed, 0, 0)
            self.finalize(*(self.call(each, call) for each in OPERATORS[:3]))
            self.finalize(self.call(OPERATORS[0], gradient_ledger.advance_round(TASK)))
            self.finalize()
            self.judge(ballot + 1)
        for _ in range(SPEC.phases.result_seconds // 2):
            self.finalize()
        self.finalize(self.call(OPERATORS[0], gradient_ledger.advance_round(TASK)))
        pay = replace(
            self.compute_vote(),
            kind=ResultKind.PAID_ONLY,
            training_state_root=ZERO_HASH,
            model_root=ZERO_HASH,
        )
        call = gradient_ledger.post_result(TASK, 0, 0, 2, pay, 0, 0)
        self.finalize(*(self.call(each, call) for each in OPERATORS))
        self.finalize(self.call(OPERATORS[0], gradient_ledger.settle_round(TASK, pay)))

    def cancel(self) -> None:
        """Cancel the task, which closes when the next attempt ends."""
        data = task_registry.cancel_task(TASK)
        self.finalize(self.call(SUBMITTER, data))

    def close(self) -> None:
        """After `cancel`: no miner commits, so the attempt ends, and the task with it."""
        for _ in range(self._spec.phases.commit_seconds):
            self.finalize()
        self.finalize(self.call(OPERATORS[0], gradient_ledger.advance_round(TASK)))
