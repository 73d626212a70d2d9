from collections.abc import Sequence

import pytest

from chain.contracts.addresses import VALIDATOR_SET
from chain.contracts.set_storage import SET_SLOTS, compute_set_hash
from chain.crypto import get_address
from chain.errors import RejectedInputError, RejectionReason
from chain.light import PARAMETERS_LIMIT_BYTES, LightChain, TrustedNetwork, verify_network
from chain.params import ChainParameters
from chain.primitives import Address, BlockNumber, Hash32, PrivateKey
from chain.state.proof import build_state_proof
from chain.types.certificate import CommitCertificate
from tests.worlds.proofs import (
    CHAIN_ID,
    GENESIS,
    PARAMETERS,
    VALIDATOR_KEYS,
    Storage,
    certify,
    make_header,
)

NETWORK = TrustedNetwork(CHAIN_ID, GENESIS.hash, PARAMETERS)
HEADER, _ = make_header(9, {})
STRANGERS = tuple(PrivateKey(bytes([n]) * 32) for n in range(0x31, 0x35))
BYTES = PARAMETERS.canonical_bytes()


def refusal(header: bytes, certificate: CommitCertificate, number: int = 9) -> RejectionReason:
    with pytest.raises(RejectedInputError) as refused:
        LightChain(NETWORK).verify_header(BlockNumber(number), header, certificate.encode())
    return refused.value.reason


def test_genesis_hash_commits_to_chain_id_and_parameters() -> None:
    assert verify_network(GENESIS.hash, CHAIN_ID, GENESIS.encode(), BYTES) == NETWORK


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"genesis_hash": Hash32(bytes(32))}, RejectionReason.WRONG_CHAIN),
        ({"chain_id": CHAIN_ID + 1}, RejectionReason.WRONG_CHAIN),
        ({"parameters": ChainParameters().canonical_bytes()}, RejectionReason.WRONG_CHAIN),
        ({"parameters": bytes(PARAMETERS_LIMIT_BYTES + 1)}, RejectionReason.TOO_LARGE),
        ({"header": b"\xc0"}, RejectionReason.MALFORMED),
    ],
)
def test_claims_of_another_genesis_are_refused(
    changes: dict[str, object], reason: RejectionReason
) -> None:
    claims = {
        "genesis_hash": GENESIS.hash,
        "chain_id": CHAIN_ID,
        "header": GENESIS.encode(),
        "parameters": BYTES,
    }
    with pytest.raises(RejectedInputError) as refused:
        verify_network(**{**claims, **changes})  # type: ignore[arg-type]
    assert refused.value.reason is reason


def test_header_is_final_with_a_quorum_of_signatures_and_not_with_fewer() -> None:
    encoded = HEADER.encode()
    found = LightChain(NETWORK).verify_header(BlockNumber(9), encoded, certify(HEADER).encode())
    assert found == HEADER
    two = certify(HEADER, signers=(0, 1))
    assert refusal(encoded, two) is RejectionReason.BAD_CERTIFICATE
    strangers = certify(HEADER, keys=STRANGERS)
    assert refusal(encoded, strangers) is RejectionReason.BAD_SIGNATURE
    elsewhere = certify(HEADER, chain_id=CHAIN_ID + 1)
    assert refusal(encoded, elsewhere) is RejectionReason.BAD_SIGNATURE
    other, _ = make_header(9, {}, timestamp=1)
    assert refusal(other.encode(), certify(HEADER)) is RejectionReason.BAD_SIGNATURE
    assert refusal(encoded, certify(HEADER), number=8) is RejectionReason.HEADER_FIELD


def test_any_final_header_is_accepted_if_no_number_is_asked_for() -> None:
    found = LightChain(NETWORK).verify_header(None, HEADER.encode(), certify(HEADER).encode())
    assert found == HEADER


# A joiner decides from block 20 on, as the state of block 19 says.

FIVE_KEYS = tuple(sorted((*VALIDATOR_KEYS, STRANGERS[0]), key=get_address))
FIVE = tuple(get_address(key) for key in FIVE_KEYS)
FOUR = PARAMETERS.validators


def words(now: Sequence[Address], then: Sequence[Address] = (), activation: int = 0) -> Storage:
    hashes = [int.from_bytes(compute_set_hash(each), "big") if each else 0 for each in (now, then)]
    return {VALIDATOR_SET: dict(zip(SET_SLOTS, (*hashes, activation), strict=True))}


def change(
    number: int,
    storage: Storage,
    validators: Sequence[Address] = FIVE,
    keys: tuple[PrivateKey, ...] = VALIDATOR_KEYS,
) -> tuple[Sequence[Address], bytes, bytes, Sequence[bytes]]:
    header, database = make_header(number, storage)
    nodes = build_state_proof(database, header.state_root, {VALIDATOR_SET: SET_SLOTS})
    certificate = certify(header, tuple(range(len(keys) - 1)), keys=keys)
    return validators, header.encode(), certificate.encode(), nodes


def is_final(chain: LightChain, number: int, keys: tuple[PrivateKey, ...]) -> bool:
    header, _ = make_header(number, {})
    certificate = certify(header, tuple(range(len(keys))), keys=keys)
    try:
        chain.verify_header(None, header.encode(), certificate.encode())
    except RejectedInputError:
        return False
    return True


def test_set_named_by_its_predecessors_last_block_decides_the_next_block() -> None:
    chain = LightChain(NETWORK)
    assert not is_final(chain, 20, FIVE_KEYS)
    chain.follow_change(*change(19, words(FOUR, FIVE, 20)))
    assert chain.set_since == 20
    assert [chain.get_validators(BlockNumber(each)) for each in (1, 19, 20, 99)] == [
        FOUR, FOUR, FIVE, FIVE,
    ]  # fmt: skip
    assert [is_final(chain, number, FIVE_KEYS) for number in (19, 20)] == [False, True]
    assert [is_final(chain, number, VALIDATOR_KEYS) for number in (19, 20)] == [True, False]
    chain.follow_change(*change(40, words(FIVE, FOUR, 41), FOUR, FIVE_KEYS))
    assert [is_final(chain, number, VALIDATOR_KEYS) for number in (40, 41)] == [False, True]


@pytest.mark.parametrize(
    "claims",
    [
        change(19, words(FOUR, FIVE, 21)),
        change(19, words(FOUR)),
        change(19, {}),
        change(19, words(FOUR, FIVE, 20), FOUR),
        change(19, words(FOUR, FIVE, 20), FIVE[:-1]),
        change(19, words(FOUR, FIVE[::-1], 20), FIVE[::-1]),
        change(19, words(FOUR, FIVE, 20), (*FIVE[:-1], Address(FIVE[-1][:-1]))),
        change(19, words(FOUR, FIVE, 20), keys=STRANGERS),
        (*change(19, words(FOUR, FIVE, 20))[:3], ()),
    ],
    ids=[
        "later", "none scheduled", "no contract", "the old set", "fewer", "not ascending",
        "short address", "not final", "not proven",
    ],
)  # fmt: skip
def test_set_that_the_chain_does_not_name_is_refused(
    claims: tuple[Sequence[Address], bytes, bytes, Sequence[bytes]],
) -> None:
    chain = LightChain(NETWORK)
    with pytest.raises(RejectedInputError):
        chain.follow_change(*claims)
    assert chain.set_since == 1


def test_a_known_change_is_not_taken_again() -> None:
    chain = LightChain(NETWORK)
    chain.follow_change(*change(19, words(FOUR, FIVE, 20)))
    for number in (18, 19):
        with pytest.raises(RejectedInputError, match="a change that is known"):
            chain.follow_change(*change(number, words(FOUR, FIVE, 1)))
