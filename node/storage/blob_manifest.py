"""The size of a blob and the hashes of its chunks (docs/spec/wire.md, section 7)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from chain.crypto import CHUNK_BYTES, content_id_of_chunks, merkle_leaf
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Hash32

MAX_CHUNKS: Final = 2**16
"""Chunks of the largest blob, 16 GiB. Their hashes take 2 MiB, which fit into one message."""


@dataclass(frozen=True)
class BlobManifest:
    """The size and chunk hashes of a blob, with which each chunk can be verified alone.

    No two manifests have one content id.
    """

    size_bytes: int
    leaves: tuple[Hash32, ...]
    """The hash of every 256 KiB chunk. An empty blob has one empty chunk."""

    def __post_init__(self) -> None:
        """Refuse a manifest that no blob can have.

        Raises:
            RejectedInputError: TOO_LARGE, or MALFORMED if size and number of leaves do not match.
        """
        if len(self.leaves) > MAX_CHUNKS:
            raise RejectedInputError(RejectionReason.TOO_LARGE, f"{len(self.leaves)} chunks")
        if self.size_bytes < 0 or len(self.leaves) != compute_chunk_count(self.size_bytes):
            raise RejectedInputError(
                RejectionReason.MALFORMED, f"{len(self.leaves)} chunks of {self.size_bytes} bytes"
            )

    @cached_property
    def content_id(self) -> Hash32:
        """The content id of the only blob, if there is one, that has this size and these chunks."""
        return content_id_of_chunks(self.size_bytes, self.leaves)

    def chunk_size(self, index: int) -> int:
        """Bytes in the chunk at `index`: 256 KiB, or less in the last one."""
        return compute_chunk_size(self.size_bytes, index)

    def check_chunk(self, index: int, data: bytes) -> None:
        """Refuse bytes that are not the chunk at `index`.

        Raises:
            RejectedInputError: MALFORMED if there is no such chunk, CONTENT_MISMATCH if these are
                not its bytes.
        """
        if not 0 <= index < len(self.leaves):
            raise RejectedInputError(RejectionReason.MALFORMED, f"no chunk {index}")
        if len(data) != self.chunk_size(index) or merkle_leaf(data) != self.leaves[index]:
            raise RejectedInputError(RejectionReason.CONTENT_MISMATCH, f"chunk {index}")


def compute_chunk_count(size_bytes: int) -> int:
    """The number of chunks of a blob; 1 for an empty blob."""
    return max(1, -(-size_bytes // CHUNK_BYTES))


def compute_chunk_size(size_bytes: int, index: int) -> int:
    """Bytes in the chunk at `index` of a blob: 256 KiB, or less in the last one."""
    return min(CHUNK_BYTES, size_bytes - index * CHUNK_BYTES)
