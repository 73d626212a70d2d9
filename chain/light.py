"""A light client: it verifies headers and accounts without a state (docs/spec/rpc.md, section 9).

Only the hash of block 0 is trusted. Its header commits to chain id and parameters, which name the
first validators. Their certificates make later headers final, and the state root of a final header
proves accounts, among them the ValidatorSet contract, which names the next validators. A server can
withhold all this but not forge it. Past validators stay trusted for the blocks of their time, so a
client that was away for very long should start from a checkpoint.
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
"""The addresses of a hundred validators take 4.5 kB."""


@dataclass(frozen=True, slots=True)
class TrustedNetwork:
    """A network with a genesis hash that the user trusts."""

    chain_id: int
    genesis_hash: Hash32
    parameters: ChainParameters


def verify_network(
    genesis_hash: Hash32, chain_id: int, header: bytes, parameters: bytes
) -> TrustedNetwork:
    """The network with that genesis hash, from data that an untrusted server claims.

    Args:
        genesis_hash: The trusted hash of block 0.
        chain_id: The claimed chain id.
        header: The claimed header of block 0, encoded.
        parameters: The claimed parameters as canonical bytes.

    Raises:
        RejectedInputError: WRONG_CHAIN if the claims are of another network; TOO_LARGE or
            MALFORMED.
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
    """Verifies headers, and follows the validator set from change to change."""

    def __init__(self, network: TrustedNetwork) -> None:
        self._network = network
        self._first_blocks = [BlockNumber(1)]
        self._sets = [tuple(network.parameters.validators)]

    @property
    def set_since(self) -> BlockNumber:
        """The first block that the latest known validator set decided."""
        return self._first_blocks[-1]

    def get_validators(self, number: BlockNumber) -> tuple[Address, ...]:
        """The validators that decide block `number`, according to the latest known set."""
        return self._sets[max(0, bisect_right(self._first_blocks, number) - 1)]

    def verify_header(
        self, number: BlockNumber | None, header: bytes, certificate: bytes
    ) -> Header:
        """The decoded header, verified to be final at `number`, or at any number if that is None.

        Raises:
            RejectedInputError: The header is of another number, not final or not an encoding, or it
                comes after a change of the validator set that is not known yet.
        """
        decoded = decode_header(header)
        if number is not None and decoded.number != number:
            raise RejectedInputError(RejectionReason.HEADER_FIELD, "number")
        if decoded.hash == self._network.genesis_hash:
            return decoded  # block 0 needs no certificate
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
        """Adopt the validator set that decides from the block after `header` on.

        Args:
            validators: The claimed validators.
            header: The claimed header, encoded, of the last block that the previous set decided.
            certificate: The certificate of that header.
            nodes: Trie nodes that prove `SET_SLOTS` of the ValidatorSet contract in its state.

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
