import pytest

from chain.errors import RejectedInputError, RejectionReason
from chain.light import PARAMETERS_LIMIT_BYTES, TrustedNetwork, verify_final_header, verify_network
from chain.params import ChainParameters
from chain.primitives import BlockNumber, Hash32, PrivateKey
from chain.types.certificate import CommitCertificate
from tests.miner.fake_chain import CHAIN_ID, GENESIS, PARAMETERS, certify, make_header

NETWORK = TrustedNetwork(CHAIN_ID, GENESIS.hash, PARAMETERS)
HEADER, _ = make_header(9, {})
STRANGERS = tuple(PrivateKey(bytes([n]) * 32) for n in range(0x31, 0x35))
BYTES = PARAMETERS.canonical_bytes()


def refusal(header: bytes, certificate: CommitCertificate, number: int = 9) -> RejectionReason:
    with pytest.raises(RejectedInputError) as refused:
        verify_final_header(NETWORK, BlockNumber(number), header, certificate.encode())
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
def test_claims_that_are_not_of_that_genesis_are_refused(
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


def test_header_is_final_by_a_quorum_and_not_by_less() -> None:
    encoded = HEADER.encode()
    assert verify_final_header(NETWORK, BlockNumber(9), encoded, certify(HEADER).encode()) == HEADER
    two = certify(HEADER, signers=(0, 1))
    assert refusal(encoded, two) is RejectionReason.BAD_CERTIFICATE
    strangers = certify(HEADER, keys=STRANGERS)
    assert refusal(encoded, strangers) is RejectionReason.BAD_SIGNATURE
    elsewhere = certify(HEADER, chain_id=CHAIN_ID + 1)
    assert refusal(encoded, elsewhere) is RejectionReason.BAD_SIGNATURE
    other, _ = make_header(9, {}, timestamp=1)
    assert refusal(other.encode(), certify(HEADER)) is RejectionReason.BAD_SIGNATURE
    assert refusal(encoded, certify(HEADER), number=8) is RejectionReason.HEADER_FIELD


def test_any_final_header_will_do_where_none_is_named() -> None:
    found = verify_final_header(NETWORK, None, HEADER.encode(), certify(HEADER).encode())
    assert found == HEADER
