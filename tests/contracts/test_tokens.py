"""POT, and malicious tokens (docs/spec/contracts.md, sections 4 and 10)."""

import pytest
from eth_abi.abi import encode
from eth_utils.abi import function_signature_to_4byte_selector as compute_selector

from chain.contracts import miner_seats, reward_distributor, task_registry, training_token
from chain.contracts.abi import ContractCall
from chain.contracts.addresses import MINER_SEATS, TASK_REGISTRY, TRAINING_TOKEN
from chain.contracts.errors import ContractError
from chain.contracts.task_registry import TaskStatus, TaskTerms
from chain.crypto import get_address, keccak256, sign
from chain.primitives import Hash32, PrivateKey
from tests.worlds.contracts import (
    BUDGET,
    CHAIN_ID,
    FEE_LIMIT,
    HOLDERS,
    MINERS,
    POT,
    PURCHASE,
    RESOURCES,
    SEAT_BOND,
    SPEC,
    STAKE,
    STRANGER,
    SUBMITTER,
    SUPPLY_EACH,
    TREASURY,
    VALIDATORS,
    Answer,
    Reverted,
    World,
    account,
    new_world,
    refusal,
    result,
    with_terms,
)

TOKEN = account("a token that means harm")
BOND = 5 * POT // 2
"""The bond for two units."""
TERMS = with_terms(token=TOKEN)
REENTERED = compute_selector("ReentrancyGuardReentrantCall()")


def call(signature: str, types=(), values=()) -> bytes:
    return compute_selector(signature) + encode(types, values)


# ---- POT


def test_pot_is_an_erc20_with_a_fixed_supply() -> None:
    world = new_world()
    answers = {
        name: world.view(TRAINING_TOKEN, call(f"{name}()"))
        for name in ("name", "symbol", "decimals", "totalSupply")
    }
    assert answers == {
        "name": encode(["string"], ["Proof of Training"]),
        "symbol": encode(["string"], ["POT"]),
        "decimals": encode(["uint8"], [18]),
        "totalSupply": encode(["uint256"], [SUPPLY_EACH * len(HOLDERS) + STAKE * len(VALIDATORS)]),
    }
    mint = call("mint(address,uint256)", ["address", "uint256"], [STRANGER, 1])
    refusal(world.send, SUBMITTER, ContractCall(TRAINING_TOKEN, mint))


def test_pot_is_allocated_to_as_many_holders_as_amounts() -> None:
    arguments = training_token.encode_constructor([SUBMITTER], [1, 2])
    refused = refusal(new_world().deploy, "TrainingToken", TOKEN, arguments)
    assert refused == ContractError("TokenAllocationMismatch", (1, 2))


def test_pot_can_be_approved_by_signature() -> None:
    """EIP-2612: a wallet without coins signs, and another account pays the gas."""
    world = new_world()
    secret = PrivateKey(keccak256(b"holder"))
    holder = get_address(secret)
    domain = keccak256(
        encode(
            ["bytes32", "bytes32", "bytes32", "uint256", "address"],
            [
                keccak256(
                    b"EIP712Domain(string name,string version,uint256 chainId,"
                    b"address verifyingContract)"
                ),
                keccak256(b"Proof of Training"),
                keccak256(b"1"),
                CHAIN_ID,
                TRAINING_TOKEN,
            ],
        )
    )
    permit = keccak256(
        encode(
            ["bytes32", "address", "address", "uint256", "uint256", "uint256"],
            [
                keccak256(
                    b"Permit(address owner,address spender,uint256 value,uint256 nonce,"
                    b"uint256 deadline)"
                ),
                holder,
                TASK_REGISTRY,
                7,
                0,
                2**64,
            ],
        )
    )
    signature = sign(Hash32(keccak256(b"\x19\x01" + domain + permit)), secret)
    data = call(
        "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)",
        ["address", "address", "uint256", "uint256", "uint8", "bytes32", "bytes32"],
        [
            holder,
            TASK_REGISTRY,
            7,
            2**64,
            signature[64] + 27,
            signature[:32],
            signature[32:64],
        ],
    )
    world.send(STRANGER, ContractCall(TRAINING_TOKEN, data))
    allowance = world.read(training_token.allowance(TRAINING_TOKEN, holder, TASK_REGISTRY))
    assert allowance == 7


# ---- a token that takes a fee


@pytest.fixture
def fee_world() -> World:
    world = new_world()
    arguments = encode(["address[]", "uint256"], [HOLDERS, SUPPLY_EACH])
    world.deploy("FeeToken", TOKEN, arguments)
    return world


def set_fee(world: World, fee: int) -> None:
    world.send(STRANGER, ContractCall(TOKEN, call("setFee(uint256)", ["uint256"], [fee])))


def build_submission(terms: TaskTerms) -> ContractCall:
    return task_registry.submit_task(terms, RESOURCES, SPEC, BUDGET, PURCHASE, FEE_LIMIT)


def test_a_deposit_that_arrives_short_is_refused_everywhere(fee_world: World) -> None:
    set_fee(fee_world, 1)
    short = ContractError("TaskInexactTransfer", (BUDGET, BUDGET - 1))
    assert refusal(fee_world.submit, TERMS) == short
    set_fee(fee_world, 0)
    fee_world.submit(TERMS)
    set_fee(fee_world, 3)
    fee_world.approve(SUBMITTER, TASK_REGISTRY, 10, TOKEN)
    fund = task_registry.fund_task(fee_world.task, 10)
    assert refusal(fee_world.send, SUBMITTER, fund) == ContractError("TaskInexactTransfer", (10, 7))
    fee_world.ready()
    fee_world.approve(MINERS[0], MINER_SEATS, BOND, TOKEN)
    register = miner_seats.register(fee_world.task, 2)
    assert refusal(fee_world.send, MINERS[0], register) == ContractError(
        "TaskInexactTransfer", (BOND, BOND - 3)
    )
    assert fee_world.participants() == ()


def test_a_token_that_is_no_contract_is_refused(fee_world: World) -> None:
    data = build_submission(with_terms(token=STRANGER))
    with pytest.raises(Reverted):
        fee_world.send(SUBMITTER, data)


# ---- a token that calls back, and that is itself a submitter or miner


@pytest.fixture
def world() -> World:
    world = new_world()
    arguments = encode(["address[]", "uint256"], [HOLDERS, SUPPLY_EACH])
    world.deploy("CallbackToken", TOKEN, arguments)
    world.approve(MINERS[0], MINER_SEATS, SUPPLY_EACH, TOKEN)
    world.approve(MINERS[1], MINER_SEATS, SUPPLY_EACH, TOKEN)
    for spender in (TASK_REGISTRY, MINER_SEATS):
        act(world, training_token.approve(TOKEN, spender, SUPPLY_EACH))
    world.send(TREASURY, training_token.transfer(TRAINING_TOKEN, TOKEN, 2 * FEE_LIMIT))
    act(world, training_token.approve(TRAINING_TOKEN, TASK_REGISTRY, 2 * FEE_LIMIT))
    # The token's own account pays a seat bond in POT when it registers.
    world.send(TREASURY, training_token.transfer(TRAINING_TOKEN, TOKEN, SEAT_BOND))
    act(world, training_token.approve(TRAINING_TOKEN, MINER_SEATS, SEAT_BOND))
    return world


def act(world: World, inner: ContractCall) -> Answer:
    """Make a call from the token's account."""
    data = call("act(address,bytes)", ["address", "bytes"], [inner.to, inner.data])
    return world.send(STRANGER, ContractCall(TOKEN, data))


def arm(world: World, inner: ContractCall) -> None:
    """Let the token make this call first at its next transfer."""
    data = call("arm(address,bytes)", ["address", "bytes"], [inner.to, inner.data])
    world.send(STRANGER, ContractCall(TOKEN, data))


def outcome(world: World) -> tuple[bool, bool, bytes]:
    """Whether the token called back, whether that succeeded, and the first word of the answer."""
    called = bool(int.from_bytes(world.view(TOKEN, call("called()")), "big"))
    succeeded = bool(int.from_bytes(world.view(TOKEN, call("succeeded()")), "big"))
    answer = world.view(TOKEN, call("answer()"))
    return called, succeeded, answer[64:68]


SUBMIT = build_submission(TERMS)


def test_a_submission_cannot_be_reentered(world: World) -> None:
    arm(world, SUBMIT)
    act(world, SUBMIT)
    assert outcome(world) == (True, False, REENTERED)
    count = world.read(task_registry.task_count())
    assert count == 1
    assert world.balance(TASK_REGISTRY, TOKEN) == BUDGET


def test_task_cancelled_during_its_submission_holds_its_budget(world: World) -> None:
    arm(world, task_registry.cancel_task(world.task))
    act(world, SUBMIT)
    assert outcome(world)[:2] == (True, True)
    assert world.money.status is TaskStatus.CLOSED
    assert world.balance(TASK_REGISTRY, TOKEN) == BUDGET
    world.refund()
    assert world.balance(TASK_REGISTRY, TOKEN) == 0


def test_a_refund_cannot_be_reentered(world: World) -> None:
    world.submit(TERMS)
    act(world, SUBMIT)
    world.cancel()
    arm(world, task_registry.refund_task(world.task))
    world.refund()
    assert outcome(world) == (True, False, REENTERED)
    assert world.balance(TASK_REGISTRY, TOKEN) == BUDGET
    assert world.balance(SUBMITTER, TOKEN) == SUPPLY_EACH


def test_a_registration_cannot_be_reentered(world: World) -> None:
    world.submit(TERMS)
    world.ready()
    register = miner_seats.register(world.task, 2)
    arm(world, register)
    act(world, register)
    assert outcome(world) == (True, False, REENTERED)
    assert world.balance(MINER_SEATS, TOKEN) == BOND


def test_a_bond_withdrawn_cannot_be_withdrawn_again(world: World) -> None:
    world.submit(TERMS)
    world.ready()
    act(world, miner_seats.register(world.task, 2))
    world.register(MINERS[0])
    world.cancel()
    withdraw = miner_seats.withdraw_bond(world.task)
    arm(world, withdraw)
    act(world, withdraw)
    assert outcome(world) == (True, False, REENTERED)
    assert world.balance(MINER_SEATS, TOKEN) == BOND


def test_a_claim_is_recorded_before_it_is_paid(world: World) -> None:
    world.submit(TERMS)
    world.ready()
    for miner in MINERS[:2]:
        world.register(miner)
    world.advance()
    world.mine(1, 1)
    world.commit_all()
    world.judge()
    tree = world.rewards({MINERS[0]: POT, MINERS[1]: 2 * POT})
    world.settle(world.agree(result(rewards=tree)))
    again = reward_distributor.CONTRACT.call(
        "claimFor", world.task, MINERS[0], POT, tree.proof(MINERS[0]) or ()
    )
    before = world.balance(MINERS[0], TOKEN)
    arm(world, again)
    world.claim(MINERS[0], tree, POT)
    refused = compute_selector("DistributorNothingToClaim(uint256,address)")
    assert outcome(world) == (True, False, refused)
    assert world.balance(MINERS[0], TOKEN) == before + POT
    assert world.claimed_total() == POT


def test_votes_and_settlement_call_no_token(world: World) -> None:
    world.submit(TERMS)
    world.ready()
    for miner in MINERS[:2]:
        world.register(miner)
    world.advance()
    world.mine(1, 1)
    # From here on every call of the token fails.
    world.state.set_code(TOKEN, b"\xfe")
    for _ in range(2):
        world.play_round()
    world.pass_phase()
    world.advance()
    world.mine(1, 1)
    world.cancel()
    world.play_round()
    assert world.money.status is TaskStatus.CLOSED
