"""Serves proofs to light clients, which trust no node (docs/spec/rpc.md, section 9)."""

from collections.abc import Mapping
from functools import partial
from typing import Final

from chain.hexadecimal import to_hex
from chain.json_types import Json
from chain.primitives import Address, BlockNumber, Hash32
from chain.state.proof import StorageReads, build_state_proof
from chain.state.trie import MissingTrieNodeError
from node.ipc.turns import SharedTurns
from node.rpc.chain_view import ChainView
from node.rpc.dispatch import Method
from node.rpc.errors import ErrorCode, RpcError
from node.rpc.parameters import (
    BlockTag,
    Parameters,
    parse_address,
    parse_block,
    parse_integer,
    parse_list,
    parse_object,
    parse_slot,
)

CONTRACT_LIMIT: Final = 16
"""Limit of contracts in a proof."""

SLOT_LIMIT: Final = 4_096
"""Limit of storage slots in a proof: two for each miner that a task may have, and some more."""


PROOFS: Final = 2
"""Limit of proofs that are made at the same time; the largest reads 4 096 slots."""

SETS_LIMIT: Final = 16
"""Limit of validator sets in an answer: 70 kB if each has a hundred validators."""


class ProofMethods:
    """The methods `pot_getGenesis`, `pot_getProof` and `pot_getValidatorSets`."""

    def __init__(self, chain: ChainView, parameters: bytes) -> None:
        self._chain = chain
        self._turns = SharedTurns(PROOFS)
        self._parameters = parameters
        """The network's parameters, as canonical JSON."""

    def table(self) -> Mapping[str, Method]:
        """The methods by name."""
        return {
            "pot_getGenesis": self._get_genesis,
            "pot_getProof": self._get_proof,
            "pot_getValidatorSets": self._get_validator_sets,
        }

    async def _get_genesis(self, params: Parameters) -> Json:
        params.end()
        header = self._chain.state_header(BlockTag.EARLIEST)
        return {"header": to_hex(header.encode()), "parameters": to_hex(self._parameters)}

    async def _get_proof(self, params: Parameters) -> Json:
        reads = params.required("storage", _parse_reads)
        block = params.optional("block", parse_block, BlockTag.LATEST)
        params.end()
        header = self._chain.state_header(block)
        try:
            nodes = await self._turns.run(self._list_nodes, header.state_root, reads)
        except MissingTrieNodeError as error:
            raise RpcError(
                ErrorCode.INVALID_INPUT, f"this node lacks the state of block {header.number}"
            ) from error
        certificate = self._chain.store.certificate(header.number)  # block 0 has none
        return {
            "header": to_hex(header.encode()),
            "certificate": None if certificate is None else to_hex(certificate.encode()),
            "nodes": nodes,
        }

    def _list_nodes(self, state_root: Hash32, reads: StorageReads) -> Json:
        nodes = build_state_proof(self._chain.database, state_root, reads)
        return [to_hex(node) for node in nodes]

    async def _get_validator_sets(self, params: Parameters) -> Json:
        number = params.required("number", partial(parse_integer, low=0, high=2**53 - 1))
        params.end()
        return [
            {"firstBlock": first, "validators": [to_hex(each) for each in validator_set.validators]}
            for first, validator_set in self._chain.store.validator_sets_after(
                BlockNumber(number), SETS_LIMIT
            )
        ]


def _parse_reads(value: Json) -> dict[Address, list[int]]:
    reads = {
        parse_address(address): [parse_slot(slot) for slot in parse_list(slots, limit=SLOT_LIMIT)]
        for address, slots in parse_object(value).items()
    }
    if len(reads) > CONTRACT_LIMIT or sum(map(len, reads.values())) > SLOT_LIMIT:
        raise RpcError(
            ErrorCode.LIMIT_EXCEEDED, f"more than {CONTRACT_LIMIT} contracts or {SLOT_LIMIT} slots"
        )
    return reads
