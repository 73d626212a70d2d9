"""The chain as somebody sees it who holds no state (docs/spec/rpc.md, section 9).

What is trusted is the hash of block 0. Its header commits to chain id and parameters, these name
the validators, their certificates make later headers final, and a final header's state root opens
every account. Whoever serves all this can withhold it, and no more.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from chain.consensus.certificates import verify_commit_certificate
from chain.consensus.messages import CONSENSUS_VERSION, SigningDomain
from chain.errors import RejectedInputError, RejectionReason
from chain.genesis import compute_commitment
from chain.params import ChainParameters, InvalidGenesisError, parse_parameters
from chain.primitives import Address, BlockNumber, Hash32
from chain.types.certificate import decode_certificate
from chain.types.header import Header, decode_header

PARAMETERS_LIMIT_BYTES: Final = 2**16
"""A hundred validators' addresses take 4.5 kB."""


@dataclass(frozen=True, slots=True)
class TrustedNetwork:
    """A network whose genesis hash somebody vouched for."""

    chain_id: int
    genesis_hash: Hash32
    parameters: ChainParameters

    def get_validators(self, _number: BlockNumber) -> Sequence[Address]:
        """The validators whose certificate makes a block final.

        The set is that of genesis. Once it can change, the ValidatorSet contract's slots under an
        earlier final state root prove each later one.
        """
        return self.parameters.validators


def verify_network(
    genesis_hash: Hash32, chain_id: int, header: bytes, parameters: bytes
) -> TrustedNetwork:
    """The network whose block 0 has that hash.

    Args:
        genesis_hash: Trusted.
        chain_id: Claimed.
        header: The encoded header of block 0, claimed.
        parameters: Their canonical bytes, claimed.

    Raises:
        RejectedInputError: WRONG_CHAIN: they are another network's; TOO_LARGE or MALFORMED.
    """
    decoded = decode_header(header)
    if decoded.hash != genesis_hash:
        raise RejectedInputError(RejectionReason.WRONG_CHAIN, "genesis hash")
    if len(parameters) > PARAMETERS_LIMIT_BYTES:
        raise RejectedInputError(RejectionReason.TOO_LARGE, "parameters")
    if compute_commitment(chain_id, parameters) != decoded.extra_data:
        raise RejectedInputError(RejectionReason.WRONG_CHAIN, "chain id or parameters")
    try:
        parsed = parse_parameters(json.loads(parameters))
    except (ValueError, InvalidGenesisError) as error:
        raise RejectedInputError(
            RejectionReason.MALFORMED, f"this version does not know the network's rules: {error}"
        ) from error
    if not parsed.validators:
        raise RejectedInputError(RejectionReason.MALFORMED, "the network has no validators")
    return TrustedNetwork(chain_id, genesis_hash, parsed)


def verify_final_header(
    network: TrustedNetwork, number: BlockNumber | None, header: bytes, certificate: bytes
) -> Header:
    """The header at `number`, at any if None, which a quorum of the validators made final.

    Raises:
        RejectedInputError: It is another block's, not final, or not an encoding.
    """
    decoded = decode_header(header)
    if number is not None and decoded.number != number:
        raise RejectedInputError(RejectionReason.HEADER_FIELD, "number")
    if decoded.hash == network.genesis_hash:
        return decoded  # final from the start, so it has no certificate
    verify_commit_certificate(
        decode_certificate(certificate),
        decoded.number,
        decoded.hash,
        SigningDomain(network.chain_id, network.genesis_hash, CONSENSUS_VERSION),
        network.get_validators(decoded.number),
    )
    return decoded
