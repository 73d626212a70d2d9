"""The chain as somebody sees it who holds no state (docs/spec/rpc.md, section 9).

What is trusted is the hash of block 0. Its header commits to chain id and parameters, these name
the first validators, their certificates make later headers final, and a final header's state root
opens every account, the one that names the next validators among them. Whoever serves all this can
withhold it, and no more. Who has left a set is trusted for ever with the blocks that it decided.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from chain.consensus.certificates import verify_commit_certificate
from chain.consensus.messages import CONSENSUS_VERSION, SigningDomain
from chain.contracts.set_storage import compute_set_hash, is_validator_set, read_next_set_hash
from chain.errors import RejectedInputError, RejectionReason
from chain.genesis import compute_commitment
from chain.params import ChainParameters, InvalidGenesisError, parse_parameters
from chain.primitives import Address, BlockNumber, Hash32
from chain.state.proof import ProvenState
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


class LightChain:
    """Which headers are final, and who decides which block, as far as that was proven."""

    def __init__(self, network: TrustedNetwork) -> None:
        self._network = network
        self._first_blocks = [BlockNumber(1)]
        self._sets = [tuple(network.parameters.validators)]

    @property
    def set_since(self) -> BlockNumber:
        """The first block that the latest known set decided."""
        return self._first_blocks[-1]

    def get_validators(self, number: BlockNumber) -> tuple[Address, ...]:
        """The validators whose certificate makes block `number` final, as far as is known."""
        return self._sets[max(0, bisect_right(self._first_blocks, number) - 1)]

    def verify_header(
        self, number: BlockNumber | None, header: bytes, certificate: bytes
    ) -> Header:
        """The header at `number`, at any if None, which a quorum of the validators made final.

        Raises:
            RejectedInputError: It is another block's, not final, or not an encoding; or it is of a
                time after a change of the set that is not known yet.
        """
        decoded = decode_header(header)
        if number is not None and decoded.number != number:
            raise RejectedInputError(RejectionReason.HEADER_FIELD, "number")
        if decoded.hash == self._network.genesis_hash:
            return decoded  # final from the start, so it has no certificate
        verify_commit_certificate(
            decode_certificate(certificate),
            decoded.number,
            decoded.hash,
            SigningDomain(self._network.chain_id, self._network.genesis_hash, CONSENSUS_VERSION),
            self.get_validators(decoded.number),
        )
        return decoded

    def follow_change(
        self,
        validators: Sequence[Address],
        header: bytes,
        certificate: bytes,
        nodes: Iterable[bytes],
    ) -> None:
        """Take over the set that decides from the block after `header` on.

        Args:
            validators: Claimed.
            header: The encoded header of the last block that the set before decided, claimed.
            certificate: What makes it final.
            nodes: They prove `SET_SLOTS` of ValidatorSet in its state.

        Raises:
            RejectedInputError: The header is not final, or its state names another set.
        """
        decoded = self.verify_header(None, header, certificate)
        first = BlockNumber(decoded.number + 1)
        if first <= self.set_since:
            raise RejectedInputError(RejectionReason.HEADER_FIELD, "a change that is known")
        wanted = read_next_set_hash(
            ProvenState(decoded.state_root, nodes).get_storage, decoded.number
        )
        if not is_validator_set(validators) or compute_set_hash(validators) != wanted:
            raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, "validator set")
        self._first_blocks.append(first)
        self._sets.append(tuple(validators))
