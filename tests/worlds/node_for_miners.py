"""A node as a miner sees it, without a chain: it answers, records, and fails if told to."""

import json
from dataclasses import dataclass, field, replace
from threading import Lock

import httpx
from eth_abi.abi import encode

from chain.contracts import gradient_ledger, ledger_storage, miner_seats, training_token
from chain.contracts.addresses import (
    FAUCET,
    GRADIENT_LEDGER,
    MINER_SEATS,
    REWARD_DISTRIBUTOR,
    TASK_REGISTRY,
    TRAINING_TOKEN,
    VALIDATOR_SET,
)
from chain.contracts.task_registry import TaskStatus
from chain.crypto import content_id, get_address, sha256
from chain.primitives import Address, Hash32, PrivateKey, TaskId
from chain.training.architectures import count_parameters
from chain.training.assignment import compute_seed
from chain.training.attempt import AttemptId
from chain.training.encoding import (
    Float32Array,
    GradientHeader,
    compute_commitment,
    encode_gradient,
)
from chain.training.task_spec import (
    Shard,
    TaskSpec,
)
from chain.training.task_spec_codec import compute_spec_hash, encode_task_spec
from chain.types.transaction import Transaction, decode_transaction
from chain.validation import compute_mix_hash
from miner.limits import MinerLimits
from pot_common.gas_offer import COMMITMENT_GAS_LIMIT
from tests.worlds.proofs import (
    CHAIN_ID,
    GENESIS,
    VALIDATOR_KEYS,
    Storage,
    attempt_storage,
    certify,
    genesis_answer,
    make_header,
    members_storage,
    prove,
    read_reads,
    set_storage,
    task_storage,
)
from tests.worlds.training import SPEC, random_gradient

TASK = TaskId(1)
GENESIS_HASH = "0x" + GENESIS.hash.hex()
PARAMETERS = count_parameters(SPEC.model)
THETA = bytes(4 * PARAMETERS)
SHARD = b"rows" * 1_000
MINING_SPEC: TaskSpec = replace(
    SPEC,
    initial_weights=content_id(THETA),
    data=replace(SPEC.data, shards=(Shard(content_id(SHARD), len(SHARD), 100),)),
    reward=replace(SPEC.reward, token=TRAINING_TOKEN),
)
BOND = 5 * MINING_SPEC.reward.unit_price // 4
"""The bond for one unit: one round's pay and two misses."""

SEAT_BOND = 10**18
LIMITS = MinerLimits(memory_bytes=2**33, data_bytes=2**29, lock_seconds=2 * 86_400)
"""What the operator of a miner under test allows."""

HEX_CONTRACTS = {
    "token": TRAINING_TOKEN,
    "taskRegistry": TASK_REGISTRY,
    "gradientLedger": GRADIENT_LEDGER,
    "rewardDistributor": REWARD_DISTRIBUTOR,
    "minerSeats": MINER_SEATS,
    "faucet": FAUCET,
}


def word(value: int) -> str:
    return "0x" + value.to_bytes(32, "big").hex()


def selector(data: bytes) -> bytes:
    return data[:4]


RECEIVING = Lock()
"""A miner sends a transaction to all nodes at once, which may share a chain."""


class CountingTrainer:
    """Gives a new gradient every time, so a repeated payload shows that it was stored."""

    def __init__(self) -> None:
        self.calls: list[tuple[bytes, tuple[int, ...]]] = []

    def build_payload(self, header: GradientHeader, theta: bytes, samples: list[int]) -> bytes:
        self.calls.append((theta, tuple(samples)))
        gradient: Float32Array = random_gradient(len(self.calls), header.parameter_count)
        return encode_gradient(header, gradient)


@dataclass
class FakeNode:
    """A node with one task; tests set its fields to whatever the miner shall find."""

    miner: Address
    phase: str = "commitment"
    round_number: int = 0
    attempt: int = 0
    ballot: int = 0
    participants: tuple[tuple[Address, int], ...] = ()
    status: str = "active"
    token_balance: int = 0
    units: int = 0
    is_slashed: bool = False
    floor_blocks: int = 2
    """The least blocks of each phase of the attempt."""
    miss_count: int = 0
    """The misses of the miner's seat, which ends at the second one."""
    has_left: bool = False
    """Whether the miner gave its seat up."""
    is_displaced: bool = False
    """Whether a newcomer took its seat."""
    has_seat_bond: bool = True
    """Whether a part of the miner's bond in POT is left."""
    registered_block: int = 0
    """The block in which the miner took its seat."""
    has_attempt: bool = True
    """Whether an attempt is in progress; if not, none was ever opened."""
    attempts_left: int = 100
    passed_blocks: int = 0
    """Blocks that followed without a change."""
    first_attempts: dict[Address, int] = field(default_factory=dict)
    """The first attempts of other seats; 1 if not named."""
    spec: TaskSpec = MINING_SPEC
    is_down: bool = False
    refuses_reveals: bool = False
    busy_seconds: str | None = None
    """If set, the node has no place for a gradient, and names this time."""
    asked_reveals: int = 0
    """The number of requests to take a gradient."""
    holders: tuple[Address, ...] = tuple(map(get_address, VALIDATOR_KEYS))
    """The validators that hold a gradient once it was revealed here."""
    receipt: object = None
    """The answer to pot_getReceipt."""
    claimable: int = 0
    takes_effect: bool = True
    """Whether transactions in blocks do anything; otherwise they revert."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    transactions: list[Transaction] = field(default_factory=list)
    reveals: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    genesis_hash: str = GENESIS_HASH
    chain_id: int = CHAIN_ID
    lag: int = 0
    """How many blocks the head is behind what it should be."""
    set_changes: tuple[tuple[int, tuple[PrivateKey, ...]], ...] = ()
    """The first block and the validators' keys of each set after that of genesis, ascending."""
    proofs: int = 0
    """The number of proofs that were requested."""

    def __post_init__(self) -> None:
        for blob in (THETA, SHARD):
            self.blobs["0x" + content_id(blob).hex()] = blob
        if not self.participants:
            self.participants = ((self.miner, 1),)

    @property
    def open_block(self) -> int:
        """The block in which the attempt opened."""
        return 7 + 100 * self.round_number + 10 * self.attempt

    @property
    def head(self) -> int:
        """The last final block."""
        begun = self.open_block + (1 if self.phase == "commitment" else 4)
        return begun + self.passed_blocks - self.lag

    @property
    def seed(self) -> Hash32:
        """The seed of the attempt."""
        header, _ = make_header(self.open_block, self.storage_at(self.open_block))
        mix_hash = compute_mix_hash(header)
        return compute_seed(mix_hash, AttemptId(TASK, self.round_number, self.attempt))

    def storage_at(self, block: int) -> Storage:
        """The contracts' storage at the end of a block."""
        is_committed = block > self.open_block and bool(self.commitments) and self.takes_effect
        is_member = self.units and not self.has_lost_its_seat
        members = self.participants if is_member else self.others
        late = () if (self.miner in dict(members) or not self.units) else ((self.miner, 1),)
        attempt = attempt_storage(
            TASK,
            ordinal=self.ordinal,
            round_number=self.round_number,
            attempt=self.attempt,
            open_block=self.open_block,
            verdict_block=0 if block < self.open_block + 3 else self.open_block + 2,
            floor_blocks=self.floor_blocks,
            model_root=content_id(THETA) if self.round_number else Hash32(bytes(32)),
            is_open=self.has_attempt,
        )
        committed = {self.miner: self.committed_at} if is_committed else {}
        spec_hash = compute_spec_hash(self.spec)
        status = self.status if block > self.open_block else "active"
        return {
            GRADIENT_LEDGER: attempt,
            MINER_SEATS: {
                # Its place in the list of members is overwritten.
                **members_storage(
                    TASK,
                    late,
                    committed,
                    first_attempt=1 if self.has_lost_its_seat else self.ordinal + 1,
                    is_slashed=self.is_slashed,
                    miss_count=self.miss_count,
                    has_left=self.has_left or self.is_displaced,
                    is_displaced=self.is_displaced,
                    has_seat_bond=self.has_seat_bond,
                ),
                **members_storage(
                    TASK,
                    members,
                    committed,
                    miss_count=self.miss_count if is_member else 0,
                    registered_block=self.registered_block,
                ),
            },
            TASK_REGISTRY: {
                **task_storage(
                    TASK,
                    spec_hash,
                    TaskStatus[status.upper()],
                    attempts_left=self.attempts_left,
                ),
                ledger_storage.REGISTRY_TASK_COUNT: self.task_count,
            },
            VALIDATOR_SET: set_storage(self.keys_at(block + 1)),
            REWARD_DISTRIBUTOR: {
                ledger_storage.find_claimed_slot(TASK, self.miner): self.claimed
                if block > self.open_block
                else 0
            },
        }

    def nonces_at(self, block: int) -> dict[Address, int]:
        """The nonce of the miner at the end of a block."""
        return {self.miner: len(self.transactions)} if block > self.open_block else {}

    def keys_at(self, block: int) -> tuple[PrivateKey, ...]:
        """The keys of the validators that decide a block."""
        sets = [keys for first, keys in self.set_changes if first <= block]
        return sets[-1] if sets else VALIDATOR_KEYS

    @property
    def has_lost_its_seat(self) -> bool:
        """Whether the seat of the miner has ended."""
        return self.is_slashed or self.has_left or self.is_displaced or self.miss_count >= 2

    @property
    def end_reason(self) -> str:
        """Why the seat has ended, if it has."""
        if self.miss_count > 1:
            return "misses"
        return "displaced" if self.is_displaced else "left"

    @property
    def others(self) -> tuple[tuple[Address, int], ...]:
        """The registered miners other than the one under test."""
        return tuple(each for each in self.participants if each[0] != self.miner)

    @property
    def ordinal(self) -> int:
        """The ordinal of the attempt."""
        return 1 + 10 * self.round_number + self.attempt

    @property
    def committed_at(self) -> int:
        """The ordinal of the attempt that the last commitment is to."""
        round_number, attempt = (
            int.from_bytes(self.commitments[-1].data[start : start + 32], "big")
            for start in (36, 68)
        )
        return 1 + 10 * round_number + attempt

    @property
    def task_count(self) -> int:
        """The number of tasks on the chain."""
        return TASK

    @property
    def claimed(self) -> int:
        """What the miner has claimed so far."""
        claims = self.sent(REWARD_DISTRIBUTOR) if self.takes_effect else []
        return int.from_bytes(claims[-1][36:68], "big") if claims else 0

    @property
    def commitments(self) -> list[Transaction]:
        name = selector(gradient_ledger.commit_gradient(TASK, 0, 0, 1, Hash32(bytes(32))).data)
        return [each for each in self.transactions if selector(each.data) == name]

    def sent(self, to: Address) -> list[bytes]:
        return [transaction.data for transaction in self.transactions if transaction.to == to]

    def opens(self, query: dict[str, str]) -> bool:
        """Whether a reveal opens the last commitment."""
        header = GradientHeader(
            attempt_id=AttemptId(TASK, int(query["round"]), int(query["attempt"])),
            parameter_count=PARAMETERS,
            chain_id=CHAIN_ID,
            theta_root=content_id(THETA),
            seed=self.seed,
            miner=self.miner,
        )
        root, salt = (Hash32(bytes.fromhex(query[key][2:])) for key in ("gradientRoot", "salt"))
        opened = compute_commitment(header, root, salt, int(query["units"]))
        return self.commitments[-1].data.endswith(opened)

    # HTTP.

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.handle)

    def handle(self, request: httpx.Request) -> httpx.Response:
        if self.is_down:
            raise httpx.ConnectError("connection refused", request=request)
        if request.url.path == "/v1/reveals":
            return self.take_reveal(dict(request.url.params), request.read())
        if request.method == "GET":
            blob = self.blobs.get(request.url.path.rsplit("/", 1)[1])
            return httpx.Response(404) if blob is None else httpx.Response(200, content=blob)
        call = json.loads(request.content)
        try:
            result = getattr(self, call["method"])(*call["params"])
        except RuntimeError as error:
            code, message, data = error.args
            failure = {"code": code, "message": message, "data": data}
            return httpx.Response(200, json={"jsonrpc": "2.0", "id": call["id"], "error": failure})
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": call["id"], "result": result})

    def take_reveal(self, query: dict[str, str], body: bytes) -> httpx.Response:
        self.asked_reveals += 1
        if self.busy_seconds is not None:
            refusal = {"error": "busy", "message": "no place for this upload now: try again"}
            return httpx.Response(503, json=refusal, headers={"retry-after": self.busy_seconds})
        if self.refuses_reveals:
            return httpx.Response(409, json={"error": "wrong_round", "message": "too early"})
        self.reveals.append((query, body))
        return httpx.Response(201)

    # JSON-RPC.

    def pot_nodeInfo(self) -> object:  # noqa: N802
        addresses = {name: "0x" + address.hex() for name, address in HEX_CONTRACTS.items()}
        return {
            "chainId": self.chain_id,
            "genesisHash": self.genesis_hash,
            "systemContracts": addresses,
            "unknown": 1,
        }

    def pot_getTask(self, task: int) -> object:  # noqa: N802
        if task != TASK:
            return None
        encoded = encode_task_spec(self.spec)
        return {
            "id": task,
            "status": self.status,
            "specHash": "0x" + sha256(encoded).hex(),
            "roundsSettled": self.round_number,
            "spec": json.loads(encoded),
        }

    def pot_listTasks(self, page: dict[str, int]) -> object:  # noqa: N802
        return [self.pot_getTask(TASK)] if page["offset"] == 0 else []

    def pot_getAttempt(self, task: int) -> object:  # noqa: N802
        if not self.has_attempt:
            return None
        listed = self.others if self.has_lost_its_seat else self.participants
        return {
            "round": self.round_number,
            "attempt": self.attempt,
            "ballot": self.ballot,
            "phase": self.phase,
            "openBlock": self.open_block,
            "participants": [["0x" + miner.hex(), units] for miner, units in listed],
            "seats": ["0x" + miner.hex() for miner, _ in listed],
        }

    def pot_getRevealHolders(  # noqa: N802
        self, task: int, round_number: int, attempt: int, miner: str
    ) -> object:
        held = [query for query, _ in self.reveals if query["round"] == str(round_number)]
        holders = self.holders if held else ()
        return {"validators": ["0x" + each.hex() for each in holders]}

    def pot_getReceipt(self, task: int, round_number: int, miner: str) -> object:  # noqa: N802
        return self.receipt

    def pot_getSeat(self, task: int, miner: str) -> object:  # noqa: N802
        if not self.units:
            return None
        price = self.spec.reward.unit_price
        return {
            "task": task,
            "token": "0x" + self.spec.reward.token.hex(),
            "units": 1,
            "bond": str(BOND - self.miss_count * price // 8),
            "bondPaid": str(self.miss_count * price // 8),
            "seatBond": str(0 if self.miss_count > 1 else SEAT_BOND),
            "seatBondPaid": str(SEAT_BOND if self.miss_count > 1 else 0),
            "misses": self.miss_count,
            "missLimit": 2,
            "lastAttempt": self.ordinal if self.has_lost_its_seat else None,
            "committedAttempt": None,
            "termAttempts": 256,
            "ended": self.has_lost_its_seat,
            "endReason": self.end_reason,
            "closed": False,
            "owesAttempt": False,
            "losses": [
                {"attempt": 5 + each, "kind": "absence", "amount": str(price // 8)}
                for each in range(self.miss_count)
            ],
            "lockedBlocks": 180,
            "lockedSeconds": 900,
            "claimable": "0",
        }

    def pot_getGenesis(self) -> object:  # noqa: N802
        return genesis_answer()

    def pot_getProof(self, storage: dict[str, list[str]], block: str) -> object:  # noqa: N802
        self.proofs += 1
        number = self.head if block == "latest" else int(block, 16)
        state, keys = self.storage_at(number), self.keys_at(number)
        nonces = self.nonces_at(number)
        header, _ = make_header(number, state, nonces=nonces)
        certificate = certify(header, tuple(range(len(keys) - 1)), keys=keys)
        reads = read_reads(storage)
        return prove(number, state, reads, certificate=certificate, nonces=nonces)

    def pot_getValidatorSets(self, after: int) -> object:  # noqa: N802
        return [
            {"firstBlock": first, "validators": ["0x" + get_address(key).hex() for key in keys]}
            for first, keys in self.set_changes
            if after < first <= self.head + 1
        ][:1]

    def pot_getRewardProof(self, task: int, account: str) -> object:  # noqa: N802
        amount = str(self.claimable)
        return {"cumulative": amount, "claimable": amount, "proof": ["0x" + "01" * 32]}

    def eth_call(self, call: dict[str, str], block: str) -> object:
        data = bytes.fromhex(call["data"][2:])
        if data == miner_seats.list_seats(TASK).data:
            types = miner_seats.CONTRACT.abi.functions["listSeats"].outputs
            has_seat = self.units and not self.has_lost_its_seat
            members = self.participants if has_seat else self.others
            firsts = [self.first_attempts.get(miner, 1) for miner, _ in members]
            columns = [[miner for miner, _ in members], [units for _, units in members], firsts]
            return "0x" + encode(types, columns).hex()
        if selector(data) == selector(miner_seats.required_bond(TASK, 1).data):
            return word(self.spec.reward.unit_price * 5 * int.from_bytes(data[-32:], "big") // 4)
        assert selector(data) == selector(
            training_token.balance_of(TRAINING_TOKEN, self.miner).data
        )
        return word(self.token_balance)

    def txpool_contentFrom(self, account: str) -> object:  # noqa: N802
        return {"pending": {}}

    def eth_chainId(self) -> object:  # noqa: N802
        return hex(self.chain_id)

    def eth_estimateGas(self, call: dict[str, str]) -> object:  # noqa: N802
        return hex(50_000)

    def eth_getTransactionCount(self, account: str, block: str) -> object:  # noqa: N802
        return hex(len(self.transactions))

    def eth_getBlockByNumber(self, number: str, full: bool) -> object:  # noqa: N802
        return {"baseFeePerGas": "0x7"}

    def eth_maxPriorityFeePerGas(self) -> object:  # noqa: N802
        return "0x1"

    def eth_gasPrice(self) -> object:  # noqa: N802
        return "0x8"

    def eth_sendRawTransaction(self, raw: str) -> object:  # noqa: N802
        transaction = decode_transaction(bytes.fromhex(raw[2:]))
        with RECEIVING:
            if any(each.hash == transaction.hash for each in self.transactions):
                raise RuntimeError(-32000, "already known", None)
            if transaction.nonce < len(self.transactions):
                raise RuntimeError(-32000, "nonce too low", None)
            if transaction.nonce > len(self.transactions):
                return "0x" + transaction.hash.hex()  # it waits for those before it
            if transaction.to == GRADIENT_LEDGER and transaction.gas_limit > COMMITMENT_GAS_LIMIT:
                return "0x" + transaction.hash.hex()  # it has no priority, and waits
            self.transactions.append(transaction)
        if not self.takes_effect:
            return "0x" + transaction.hash.hex()
        if transaction.to == FAUCET:
            self.token_balance += 10 * BOND
        if selector(transaction.data) == selector(miner_seats.register(TASK, 1).data):
            self.units, self.registered_block = 1, self.head
            self.has_left = self.is_displaced = False
        if transaction.data == miner_seats.leave(TASK).data:
            self.has_left = True
        if transaction.data == miner_seats.withdraw_seat_bond(TASK).data:
            self.has_seat_bond = False
        if transaction.data == miner_seats.withdraw_bond(TASK).data:
            self.units, self.has_left = 0, False
        return "0x" + transaction.hash.hex()

    def eth_getTransactionReceipt(self, name: str) -> object:  # noqa: N802
        if name not in ["0x" + each.hash.hex() for each in self.transactions]:
            return None
        return {"status": "0x1", "blockNumber": hex(self.head)}
