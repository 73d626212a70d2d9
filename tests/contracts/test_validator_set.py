"""The validator set (docs/spec/contracts.md, section 8)."""

from dataclasses import replace

import pytest
from eth_abi.abi import encode
from eth_utils.abi import function_signature_to_4byte_selector as compute_selector

from chain.consensus.messages import (
    MessageKind,
    SigningDomain,
    compute_signing_digest,
    compute_view_change_payload,
)
from chain.contracts import (
    gradient_ledger,
    miner_seats,
    task_registry,
    training_token,
    validator_set,
)
from chain.contracts.abi import Contract, ContractCall
from chain.contracts.addresses import TRAINING_TOKEN, VALIDATOR_SET
from chain.contracts.errors import ContractError
from chain.contracts.validator_set import (
    ExitRequested,
    ProposalClosed,
    SetScheduled,
    StakeWithdrawn,
    ValidatorProposal,
    ValidatorSlashed,
    ValidatorState,
    ValidatorStatus,
)
from chain.crypto import get_address, keccak256, sign
from chain.genesis import HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE
from chain.primitives import Address, BlockNumber, Hash32, PrivateKey, View
from chain.types.validator_set import ValidatorSet
from tests.worlds.contracts import (
    CHAIN_ID,
    CHANGE_BLOCKS,
    EVIDENCE_BLOCKS,
    FIRST_BLOCK,
    MINERS,
    OK,
    OPERATORS,
    POT,
    STAKE,
    STRANGER,
    SUPPLY_EACH,
    VALIDATORS,
    Answer,
    World,
    account,
    candidate_key,
    new_world,
    pack,
    prove_join,
    refusal,
    result,
)

PLACE = account("another set")
CANDIDATE_KEY = candidate_key("validator candidate")
CANDIDATE = get_address(CANDIDATE_KEY)
SECOND_KEY = candidate_key("second candidate")
SECOND = get_address(SECOND_KEY)
JOINER = MINERS[0]
"""The account that holds POT and wants to operate the candidate."""
GENESIS_HASH = keccak256(b"genesis")
KEY = PrivateKey(keccak256(b"a validator's key"))
SIGNER = get_address(KEY)
DOMAIN = SigningDomain(CHAIN_ID, GENESIS_HASH, 1)
BLOCK_A, BLOCK_B = keccak256(b"block a"), keccak256(b"block b")
NUMBER = BlockNumber(90)


def deployed(validators, operators, **changes: int) -> World:
    world = new_world()
    constants = {
        "stake": STAKE,
        "min_validators": 1,
        "change_blocks": CHANGE_BLOCKS,
        "evidence_blocks": EVIDENCE_BLOCKS,
        **changes,
    }
    arguments = validator_set.encode_constructor(validators, operators, **constants)
    world.deploy("ValidatorSet", PLACE, arguments)
    return world


def send(world: World, sender: Address, call: ContractCall) -> Answer:
    return world.send(sender, call)


def ask(world: World, signature: str, at: Address = PLACE) -> int:
    return int.from_bytes(world.view(at, compute_selector(signature)), "big")


def get_members(world: World) -> tuple[Address, ...]:
    current = world.read(validator_set.get_current())
    assert len(current.operators) == len(current.validators)
    return current.validators


def state_of(world: World, validator: Address) -> ValidatorState:
    return world.read(validator_set.get_validator(validator))


def proposal(world: World, proposal_id: int = 1) -> ValidatorProposal:
    return world.read(validator_set.get_proposal(proposal_id))


def slots(world: World) -> list[int]:
    return [world.state.get_storage(VALIDATOR_SET, slot) for slot in range(3)]


def set_hash(validators) -> int:
    return int.from_bytes(keccak256(encode(["address[]"], [validators])), "big")


def join_call(key: PrivateKey = CANDIDATE_KEY, operator: Address = JOINER) -> ContractCall:
    return validator_set.propose_join(get_address(key), prove_join(key, operator))


def propose_join(world: World, key: PrivateKey = CANDIDATE_KEY, operator: Address = JOINER) -> None:
    world.approve(operator, VALIDATOR_SET, STAKE)
    send(world, operator, join_call(key, operator))


def vote(world: World, *operators: Address, proposal_id: int = 1) -> Answer:
    for operator in operators:
        answer = send(world, operator, validator_set.vote_on_proposal(proposal_id))
    return answer


def joined() -> tuple[World, tuple[Address, ...]]:
    """A world of five validators, and their addresses."""
    world = new_world()
    propose_join(world)
    vote(world, *OPERATORS[:3])
    world.mine(CHANGE_BLOCKS)
    return world, tuple(sorted((*VALIDATORS, CANDIDATE)))


# ---- the first set


def test_the_set_answers_who_votes_for_whom() -> None:
    world = new_world()
    answer = world.read(validator_set.get_current())
    assert answer == ValidatorSet(VALIDATORS, OPERATORS)
    operator = world.read(validator_set.CONTRACT.view("operatorOf", VALIDATORS[2], returns=Address))
    assert operator == OPERATORS[2]
    validator = world.read(
        validator_set.CONTRACT.view("validatorOf", OPERATORS[2], returns=Address)
    )
    assert validator == VALIDATORS[2]
    nobody = world.read(validator_set.CONTRACT.view("operatorOf", MINERS[0], returns=Address))
    assert nobody == bytes(20)


def test_light_clients_find_the_set_in_slots_0_to_2() -> None:
    assert slots(new_world()) == [set_hash(VALIDATORS), 0, 0]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 10, 100])
def test_quorum_and_faults_are_those_of_pbft(n: int) -> None:
    validators = sorted(account(f"v {i}") for i in range(n))
    world = deployed(validators, [account(f"o {i}") for i in range(n)])
    assert ask(world, "count()") == n
    assert ask(world, "quorum()") == -(-2 * n // 3)
    assert ask(world, "maxFaulty()") == (n - 1) // 3


@pytest.mark.parametrize(
    ("validators", "operators", "reason"),
    [
        ([], [], "count"),
        (sorted(account(f"{i}") for i in range(101)), [account("o")] * 101, "count"),
        (VALIDATORS, OPERATORS[:3], "operators: one for each validator"),
        (VALIDATORS[::-1], OPERATORS, "validators: not ascending, or zero"),
        ((VALIDATORS[0],) * 2, OPERATORS[:2], "validators: not ascending, or zero"),
        ((bytes(20), *VALIDATORS[1:]), OPERATORS, "validators: not ascending, or zero"),
        (VALIDATORS[:2], (OPERATORS[0],) * 2, "operators: not unique"),
        (VALIDATORS[:2], (OPERATORS[0], bytes(20)), "operators: zero"),
    ],
)
def test_a_set_that_breaks_a_rule_is_not_deployed(validators, operators, reason) -> None:
    refused = refusal(deployed, validators, operators)
    assert refused == ContractError("ValidatorSetInvalid", (reason,))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"min_validators": 5}, "count"),
        ({"min_validators": 0}, "count"),
        ({"stake": 0}, "stake: zero"),
        ({"change_blocks": 0}, "change: in no blocks"),
    ],
)
def test_constants_that_could_not_work_are_not_deployed(changes, reason) -> None:
    refused = refusal(deployed, VALIDATORS, OPERATORS, **changes)
    assert refused == ContractError("ValidatorSetInvalid", (reason,))


# ---- joining


def test_a_candidate_joins_with_a_quorum_some_blocks_later() -> None:
    world = new_world()
    propose_join(world)
    assert world.pot_of(VALIDATOR_SET) == 5 * STAKE
    vote(world, *OPERATORS[:2])
    assert proposal(world) == ValidatorProposal(
        CANDIDATE, JOINER, True, False, FIRST_BLOCK + EVIDENCE_BLOCKS, STAKE, 2, 3
    )
    scheduled = vote(world, OPERATORS[2])
    activation = FIRST_BLOCK + CHANGE_BLOCKS
    assert scheduled.events[1:] == (
        ProposalClosed(1, True),
        SetScheduled(1, CANDIDATE, True, activation),
    )
    five = tuple(sorted((*VALIDATORS, CANDIDATE)))
    assert slots(world) == [set_hash(VALIDATORS), set_hash(five), activation]
    following = world.read(validator_set.next_validators())
    assert following == five

    world.mine(CHANGE_BLOCKS - 1)
    assert get_members(world) == VALIDATORS
    world.mine()
    assert get_members(world) == five
    assert ask(world, "quorum()", VALIDATOR_SET) == 4
    assert ask(world, "version()", VALIDATOR_SET) == 1
    # The change needs no call: the set in force follows from the block number.
    assert slots(world) == [set_hash(VALIDATORS), set_hash(five), activation]
    assert world.read(validator_set.next_validators()) == ()


def test_next_change_moves_the_last_set_to_the_current_slot() -> None:
    world, five = joined()
    send(world, JOINER, validator_set.leave_set())
    assert slots(world) == [set_hash(five), set_hash(VALIDATORS), world.number + CHANGE_BLOCKS]


def test_only_members_vote_and_once() -> None:
    world = new_world()
    propose_join(world)
    refused = refusal(vote, world, JOINER)
    assert refused == ContractError("ValidatorSetNotOperator", ("0x" + JOINER.hex(),))
    vote(world, OPERATORS[0])
    assert refusal(vote, world, OPERATORS[0]).name == "ValidatorSetAlreadyVoted"
    assert refusal(vote, world, OPERATORS[0], proposal_id=2).name == "ValidatorSetUnknownProposal"


def test_votes_of_former_members_do_not_count() -> None:
    world, _ = joined()
    propose_join(world, SECOND_KEY, MINERS[1])
    vote(world, JOINER, *OPERATORS[:2], proposal_id=2)
    assert proposal(world, 2).votes == 3
    send(world, JOINER, validator_set.leave_set())
    world.mine(CHANGE_BLOCKS)
    assert proposal(world, 2).votes == 2
    assert refusal(send, world, STRANGER, validator_set.carry_out(2)).name == "ValidatorSetNotReady"
    vote(world, OPERATORS[2], proposal_id=2)
    assert proposal(world, 2).is_closed


def test_one_change_at_a_time_and_anyone_carries_out_the_next() -> None:
    world = new_world()
    propose_join(world)
    propose_join(world, SECOND_KEY, MINERS[1])
    vote(world, *OPERATORS[:3])
    vote(world, *OPERATORS[:3], proposal_id=2)
    assert not proposal(world, 2).is_closed
    carry_out = validator_set.carry_out(2)
    world.mine(CHANGE_BLOCKS - 1)
    assert refusal(send, world, STRANGER, carry_out).name == "ValidatorSetNotReady"
    world.mine()
    # Five members now, and a quorum of four: three votes are not enough any more.
    assert refusal(send, world, STRANGER, carry_out).name == "ValidatorSetNotReady"
    vote(world, OPERATORS[3], proposal_id=2)
    world.mine(CHANGE_BLOCKS)
    assert get_members(world) == tuple(sorted((*VALIDATORS, CANDIDATE, SECOND)))


def test_keys_and_accounts_that_are_taken_cannot_join() -> None:
    world = new_world()

    def refused(key: PrivateKey, operator: Address) -> str:
        world.approve(operator, VALIDATOR_SET, STAKE)
        return refusal(send, world, operator, join_call(key, operator)).name

    member, operator = candidate_key("a member"), candidate_key("an operator")
    world.send(MINERS[1], training_token.transfer(TRAINING_TOKEN, get_address(operator), STAKE))
    propose_join(world, member, get_address(operator))
    vote(world, *OPERATORS[:3])
    world.mine(CHANGE_BLOCKS)
    assert refused(member, JOINER) == "ValidatorSetTaken"
    assert refused(operator, JOINER) == "ValidatorSetTaken"
    assert refused(CANDIDATE_KEY, OPERATORS[0]) == "ValidatorSetTaken"
    assert refused(CANDIDATE_KEY, VALIDATORS[0]) == "ValidatorSetTaken"
    assert refused(CANDIDATE_KEY, CANDIDATE) == "ValidatorSetInvalid"
    zero = validator_set.propose_join(Address(bytes(20)), bytes(65))
    assert refusal(send, world, JOINER, zero).name == "ValidatorSetInvalid"
    propose_join(world)
    assert refused(candidate_key("another"), JOINER) == "ValidatorSetTaken"


def test_a_candidate_without_the_stake_is_refused() -> None:
    world = new_world()
    world.approve(STRANGER, VALIDATOR_SET, STAKE)
    data = join_call(operator=STRANGER)
    assert refusal(send, world, STRANGER, data).name == "ERC20InsufficientBalance"


@pytest.mark.parametrize(
    "proof",
    [
        b"",
        bytes(65),
        prove_join(candidate_key("another"), MINERS[1]),  # of another key
        prove_join(CANDIDATE_KEY, JOINER),  # for another operator, copied from its transaction
        prove_join(CANDIDATE_KEY, MINERS[1], PLACE),  # for another contract
        prove_join(CANDIDATE_KEY, MINERS[1]) + b"\x00",
    ],
    ids=["none", "zeros", "other key", "other operator", "other contract", "too long"],
)
def test_account_that_does_not_hold_the_consensus_key_cannot_join_with_it(proof: bytes) -> None:
    world = new_world()
    thief = MINERS[1]
    world.approve(thief, VALIDATOR_SET, STAKE)
    refused = refusal(send, world, thief, validator_set.propose_join(CANDIDATE, proof))
    assert refused == ContractError("ValidatorSetInvalid", ("proof",))


def test_candidate_that_withdraws_gets_its_stake_back() -> None:
    world = new_world()
    propose_join(world)
    withdraw = validator_set.withdraw_proposal(1)
    assert refusal(send, world, OPERATORS[0], withdraw).name == "ValidatorSetNotCandidate"
    send(world, JOINER, withdraw)
    assert world.pot_of(JOINER) == SUPPLY_EACH
    assert refusal(send, world, JOINER, withdraw).name == "ValidatorSetProposalClosed"
    assert refusal(vote, world, OPERATORS[0]).name == "ValidatorSetProposalClosed"
    propose_join(world)


def test_a_proposal_expires() -> None:
    world = new_world()
    propose_join(world)
    vote(world, *OPERATORS[:2])
    world.mine(EVIDENCE_BLOCKS)
    assert refusal(vote, world, OPERATORS[2]).name == "ValidatorSetProposalClosed"
    send(world, JOINER, validator_set.withdraw_proposal(1))
    assert world.pot_of(JOINER) == SUPPLY_EACH


def test_a_set_of_a_hundred_is_full() -> None:
    world = new_world()
    validators = sorted(account(f"v {i}") for i in range(100))
    operators = [account(f"o {i}") for i in range(100)]
    arguments = validator_set.encode_constructor(
        validators,
        operators,
        stake=STAKE,
        min_validators=1,
        change_blocks=CHANGE_BLOCKS,
        evidence_blocks=EVIDENCE_BLOCKS,
    )
    world.deploy("ValidatorSet", PLACE, arguments)
    world.approve(JOINER, PLACE, STAKE)
    large = Contract(PLACE, validator_set.CONTRACT.abi)
    proof = prove_join(CANDIDATE_KEY, JOINER, PLACE)
    world.send(JOINER, large.call("proposeJoin", CANDIDATE, proof))
    for operator in operators[:67]:
        world.send(operator, large.call("voteOnProposal", 1))
    refused = refusal(world.send, STRANGER, large.call("carryOut", 1))
    assert refused.name == "ValidatorSetNotReady"
    # The most gas that a change can cost fits into a block.
    removed = world.send(operators[50], large.call("leaveSet"))
    assert removed.gas < 4_000_000


# ---- leaving, and being removed


def test_a_validator_leaves_and_has_its_stake_after_the_evidence_window() -> None:
    world = new_world()
    leaving, operator = VALIDATORS[1], OPERATORS[1]
    left = send(world, operator, validator_set.leave_set())
    activation = FIRST_BLOCK + CHANGE_BLOCKS
    assert left.events == (
        ExitRequested(leaving),
        SetScheduled(1, leaving, False, activation),
    )
    unlock = activation + EVIDENCE_BLOCKS
    assert state_of(world, leaving) == ValidatorState(
        operator, ValidatorStatus.EXITED, False, unlock, STAKE
    )
    world.mine(CHANGE_BLOCKS)
    assert get_members(world) == (VALIDATORS[0], *VALIDATORS[2:])
    withdraw = validator_set.withdraw_stake()
    world.at(unlock - 1, world.timestamp)
    assert refusal(send, world, operator, withdraw).name == "ValidatorSetStakeLocked"
    world.mine()
    paid = send(world, operator, withdraw)
    assert paid.events == (StakeWithdrawn(leaving, operator, STAKE),)
    assert world.pot_of(operator) == STAKE
    assert refusal(send, world, operator, withdraw).name == "ValidatorSetNotOperator"


def test_key_and_account_of_a_validator_that_left_can_join_again() -> None:
    world, _ = joined()
    send(world, JOINER, validator_set.leave_set())
    world.mine(CHANGE_BLOCKS + EVIDENCE_BLOCKS)
    send(world, JOINER, validator_set.withdraw_stake())
    propose_join(world)


def test_a_quorum_removes_a_member_whose_stake_stays_its_own() -> None:
    world, _ = joined()
    send(world, OPERATORS[0], validator_set.propose_removal(CANDIDATE))
    vote(world, *OPERATORS[1:3], proposal_id=2)
    assert state_of(world, CANDIDATE).status is ValidatorStatus.ACTIVE
    removed = vote(world, OPERATORS[3], proposal_id=2)
    assert ExitRequested(CANDIDATE) in removed.events
    world.mine(CHANGE_BLOCKS)
    assert get_members(world) == VALIDATORS
    assert state_of(world, CANDIDATE).stake == STAKE


def test_validator_has_one_open_proposal_to_remove_it() -> None:
    """Two members could make proposals without end, for votes on them that cost nothing."""
    world = new_world()
    removal = validator_set.propose_removal(VALIDATORS[0])
    send(world, OPERATORS[1], removal)
    expiry_block = world.number + EVIDENCE_BLOCKS
    for operator in OPERATORS[1:3]:
        assert refusal(send, world, operator, removal).name == "ValidatorSetTaken"
    send(world, OPERATORS[1], validator_set.propose_removal(VALIDATORS[2]))
    world.at(expiry_block - 1, world.timestamp)
    assert refusal(send, world, OPERATORS[1], removal).name == "ValidatorSetTaken"
    world.at(expiry_block, world.timestamp)
    send(world, OPERATORS[1], removal)


def test_only_members_are_removed_by_members() -> None:
    world = new_world()
    removal = validator_set.propose_removal(VALIDATORS[0])
    assert refusal(send, world, STRANGER, removal).name == "ValidatorSetNotOperator"
    other = validator_set.propose_removal(CANDIDATE)
    assert refusal(send, world, OPERATORS[0], other).name == "ValidatorSetNotMember"
    send(world, OPERATORS[0], validator_set.leave_set())
    assert refusal(send, world, OPERATORS[1], removal).name == "ValidatorSetWrongStatus"
    again = validator_set.leave_set()
    assert refusal(send, world, OPERATORS[0], again).name == "ValidatorSetWrongStatus"
    assert refusal(send, world, STRANGER, again).name == "ValidatorSetNotOperator"


def test_validator_that_leaves_during_a_change_waits_for_it() -> None:
    world = new_world()
    send(world, OPERATORS[0], validator_set.leave_set())
    propose_join(world)
    send(world, OPERATORS[1], validator_set.leave_set())
    assert state_of(world, VALIDATORS[1]).status is ValidatorStatus.EXITING
    remove = validator_set.remove_exiting(VALIDATORS[1])
    assert refusal(send, world, STRANGER, remove).name == "ValidatorSetNotReady"
    world.mine(CHANGE_BLOCKS)
    # Three are left, which is the minimum: the member stays until another joins.
    assert refusal(send, world, STRANGER, remove).name == "ValidatorSetNotReady"
    vote(world, *OPERATORS[1:3])
    world.mine(CHANGE_BLOCKS)
    send(world, STRANGER, remove)
    world.mine(CHANGE_BLOCKS)
    assert get_members(world) == tuple(sorted((*VALIDATORS[2:], CANDIDATE)))
    assert refusal(send, world, STRANGER, remove).name == "ValidatorSetWrongStatus"


def test_leaving_validator_votes_until_the_change_is_in_force() -> None:
    world = new_world()
    send(world, OPERATORS[0], validator_set.leave_set())
    propose_join(world)
    vote(world, OPERATORS[0])
    world.mine(CHANGE_BLOCKS)
    assert refusal(vote, world, OPERATORS[0]).name == "ValidatorSetNotOperator"


# ---- evidence


def guilty_world(*, has_genesis: bool = True) -> World:
    """A world in which the key of the tests' signatures has joined the set."""
    world = new_world()
    propose_join(world, KEY)
    vote(world, *OPERATORS[:3])
    world.state.set_code(HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE)
    world.state.set_storage(HISTORY_STORAGE_ADDRESS, 0, int.from_bytes(GENESIS_HASH, "big"))
    world.mine(CHANGE_BLOCKS)
    if has_genesis:
        send(world, STRANGER, validator_set.record_genesis())
    return world


def signed(
    kind: MessageKind,
    payload: Hash32,
    *,
    view: int = 2,
    number: int = NUMBER,
    key: PrivateKey = KEY,
    domain: SigningDomain = DOMAIN,
) -> tuple[Hash32, bytes]:
    digest = compute_signing_digest(domain, kind, BlockNumber(number), View(view), payload)
    return payload, sign(digest, key)


def equivocation(
    kind: MessageKind = MessageKind.COMMIT, number: int = NUMBER, **other
) -> ContractCall:
    return validator_set.report_equivocation(
        (kind, 1, number, 2),
        signed(kind, BLOCK_A, number=number),
        signed(kind, BLOCK_B, **{"number": number, **other}),
    )


def lost_lock(
    prepared: tuple[View, Hash32] | None = None, *, view: int = 5, key: PrivateKey = KEY
) -> ContractCall:
    claimed_view, claimed_digest = prepared or (2**64 - 1, bytes(32))
    payload = compute_view_change_payload(prepared)
    _, signature = signed(MessageKind.VIEW_CHANGE, payload, view=view, key=key)
    return validator_set.report_lost_lock(
        (MessageKind.COMMIT, 1, NUMBER, 2),
        signed(MessageKind.COMMIT, BLOCK_A),
        (view, claimed_view, Hash32(claimed_digest), signature),
    )


@pytest.mark.parametrize(
    "data",
    [
        equivocation(MessageKind.PRE_PREPARE),
        equivocation(MessageKind.PREPARE),
        equivocation(MessageKind.COMMIT),
        lost_lock(),
        lost_lock((View(1), BLOCK_B)),
    ],
    ids=["PRE-PREPARE", "PREPARE", "COMMIT", "nothing prepared", "an earlier view prepared"],
)
def test_validator_that_signs_twice_loses_all_its_stake_and_its_seat(data: bytes) -> None:
    world = guilty_world()
    slashed = send(world, STRANGER, data)
    assert slashed.events == (
        ValidatorSlashed(SIGNER, STRANGER, NUMBER, STAKE),
        ExitRequested(SIGNER),
        SetScheduled(2, SIGNER, False, world.number + CHANGE_BLOCKS),
    )
    world.mine(CHANGE_BLOCKS)
    assert get_members(world) == VALIDATORS
    state = state_of(world, SIGNER)
    assert (state.status, state.is_slashed, state.stake) == (ValidatorStatus.EXITED, True, 0)
    assert refusal(send, world, STRANGER, data).name == "ValidatorSetAlreadySlashed"
    world.at(state.unlock_block, world.timestamp)
    withdraw = validator_set.withdraw_stake()
    assert refusal(send, world, JOINER, withdraw).name == "ValidatorSetAlreadySlashed"
    world.approve(MINERS[1], VALIDATOR_SET, STAKE)
    again = join_call(KEY, MINERS[1])
    assert refusal(send, world, MINERS[1], again).name == "ValidatorSetTaken"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (equivocation(MessageKind.VIEW_CHANGE), "kind"),
        (equivocation(MessageKind.STATUS), "kind"),
        (equivocation(view=3), "two authors"),
        (equivocation(key=PrivateKey(keccak256(b"another"))), "two authors"),
        (equivocation(domain=SigningDomain(CHAIN_ID + 1, GENESIS_HASH, 1)), "two authors"),
        (equivocation(domain=SigningDomain(CHAIN_ID, Hash32(BLOCK_A), 1)), "two authors"),
        (equivocation(domain=SigningDomain(CHAIN_ID, GENESIS_HASH, 2)), "two authors"),
        (lost_lock((View(2), BLOCK_B)), "the lock is kept"),
        (lost_lock((View(3), BLOCK_B)), "the lock is kept"),
        (lost_lock(view=2), "an earlier view"),
        (lost_lock(key=PrivateKey(keccak256(b"another"))), "two authors"),
    ],
)
def test_what_an_honest_validator_may_sign_is_no_evidence(data: ContractCall, reason: str) -> None:
    refused = refusal(send, guilty_world(), STRANGER, data)
    assert refused == ContractError("ValidatorSetBadEvidence", (reason,))


def test_two_encodings_of_one_signature_are_no_evidence() -> None:
    world = guilty_world()
    place = (MessageKind.COMMIT, 1, NUMBER, 2)
    digest, signature = signed(MessageKind.COMMIT, BLOCK_A)
    half = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    s = half - int.from_bytes(signature[32:64], "big")
    other = signature[:32] + s.to_bytes(32, "big") + bytes([1 - signature[64]])
    data = validator_set.report_equivocation(place, (digest, signature), (digest, other))
    assert refusal(send, world, STRANGER, data).arguments == ("one block",)
    for bad in (b"", signature + b"\x00", bytes(65), signature[:64] + b"\x05"):
        data = validator_set.report_equivocation(place, (digest, signature), (BLOCK_B, bad))
        assert refusal(send, world, STRANGER, data).name == "ValidatorSetBadEvidence"


def test_evidence_against_an_account_without_stake_is_refused() -> None:
    world = guilty_world()
    key = PrivateKey(keccak256(b"nobody"))
    data = validator_set.report_equivocation(
        (MessageKind.COMMIT, 1, NUMBER, 2),
        signed(MessageKind.COMMIT, BLOCK_A, key=key),
        signed(MessageKind.COMMIT, BLOCK_B, key=key),
    )
    assert refusal(send, world, STRANGER, data).name == "ValidatorSetNotMember"


def test_evidence_counts_as_long_as_the_stake_of_its_number_is_locked() -> None:
    world = guilty_world()
    send(world, JOINER, validator_set.leave_set())
    activation = world.number + CHANGE_BLOCKS
    world.at(activation - 1 + EVIDENCE_BLOCKS, world.timestamp)
    too_old = equivocation(number=activation - 2)
    assert refusal(send, world, STRANGER, too_old).arguments == ("too old",)
    slashed = send(world, STRANGER, equivocation(number=activation - 1))
    assert slashed.events == (ValidatorSlashed(SIGNER, STRANGER, activation - 1, STAKE),)


def test_slashed_validator_votes_no_more_from_the_next_call_on() -> None:
    world = guilty_world()
    world.submit()
    propose_join(world, SECOND_KEY, MINERS[1])
    send(world, STRANGER, equivocation())
    assert SIGNER in get_members(world)
    calls = [
        validator_set.vote_on_proposal(2),
        validator_set.propose_removal(VALIDATORS[0]),
        task_registry.answer_task(world.task, 0),
    ]
    for call in calls:
        assert refusal(send, world, JOINER, call).name == "ValidatorSetAlreadySlashed"


def reach_vote(name: str) -> tuple[World, ContractCall]:
    """A world in which the key's validator may vote, and its vote."""
    world = guilty_world()
    miners = MINERS[2:]
    world.submit()
    world.ready(OPERATORS)
    for miner in miners:
        world.register(miner)
    world.advance()
    world.mine(1, 1)
    world.commit_all(miners)
    place = (world.task, *world.place().values())
    if name == "verdict":
        return world, gradient_ledger.post_verdict(*place, pack([OK, OK]))
    world.judge(operators=(*OPERATORS, JOINER))
    if name == "result":
        vote = world.complete(result())
        return world, gradient_ledger.post_result(*place, vote, None, 0)
    world.settle(world.agree(operators=OPERATORS))
    world.mine(1, 1)
    if name == "late verdict":
        return world, gradient_ledger.post_late_verdict(world.task, 1, pack([OK, OK]))
    return world, miner_seats.post_fines(world.task, 1, keccak256(b"fines"))


@pytest.mark.parametrize("name", ["verdict", "result", "late verdict", "fines"])
def test_slashed_validator_judges_no_round_from_the_next_call_on(name: str) -> None:
    world, call = reach_vote(name)
    assert send(world.copy(), JOINER, call).events
    send(world, STRANGER, equivocation())
    assert refusal(send, world, JOINER, call).name == "ValidatorSetAlreadySlashed"


def test_slashed_validator_leaves_a_set_of_the_smallest_size() -> None:
    world = new_world()
    validators = tuple(sorted((*VALIDATORS, SIGNER)))
    operators = tuple(account(f"o {i}") for i in range(5))
    constants = {
        "stake": STAKE,
        "min_validators": 5,
        "change_blocks": CHANGE_BLOCKS,
        "evidence_blocks": EVIDENCE_BLOCKS,
    }
    arguments = validator_set.encode_constructor(validators, operators, **constants)
    world.deploy("ValidatorSet", PLACE, arguments)
    world.state.set_code(HISTORY_STORAGE_ADDRESS, HISTORY_STORAGE_CODE)
    world.state.set_storage(HISTORY_STORAGE_ADDRESS, 0, int.from_bytes(GENESIS_HASH, "big"))
    send(world, STRANGER, replace(equivocation(), to=PLACE))
    world.mine(CHANGE_BLOCKS)
    assert ask(world, "count()") == 4


def test_members_that_were_not_slashed_replace_those_that_were() -> None:
    world = guilty_world()
    for operator in OPERATORS[:2]:
        send(world, operator, validator_set.leave_set())
        world.mine(CHANGE_BLOCKS)
    propose_join(world, SECOND_KEY, MINERS[1])
    vote(world, JOINER, OPERATORS[2], proposal_id=2)
    assert (proposal(world, 2).votes, proposal(world, 2).needed) == (2, 2)


def test_slashed_validator_stays_while_the_set_would_become_too_small() -> None:
    world = guilty_world()
    for operator in OPERATORS[:2]:
        send(world, operator, validator_set.leave_set())
        world.mine(CHANGE_BLOCKS)
    send(world, STRANGER, equivocation())
    assert SIGNER in get_members(world)
    assert state_of(world, SIGNER).status is ValidatorStatus.EXITING


def test_the_genesis_hash_is_recorded_by_the_first_evidence_or_before() -> None:
    world = guilty_world(has_genesis=False)
    assert world.read(validator_set.genesis_hash()) == bytes(32)
    send(world, STRANGER, equivocation())
    assert world.read(validator_set.genesis_hash()) == GENESIS_HASH

    late = guilty_world(has_genesis=False)
    late.at(8192, late.timestamp)
    record = validator_set.record_genesis()
    assert refusal(send, late, STRANGER, record).name == "ValidatorSetGenesisUnknown"
    assert refusal(send, late, STRANGER, equivocation(number=8000)).name == (
        "ValidatorSetGenesisUnknown"
    )


def test_stake_is_held_in_the_token_of_the_network() -> None:
    world = new_world()
    assert world.balance(VALIDATOR_SET, TRAINING_TOKEN) == 4 * STAKE
    assert ask(world, "requiredStake()", VALIDATOR_SET) == STAKE == 500 * POT
