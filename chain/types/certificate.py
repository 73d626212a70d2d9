"""The commit certificate: COMMITs of a quorum for one block (docs/spec/consensus.md, section 6)."""

from dataclasses import dataclass
from typing import Final

from chain import codec
from chain.crypto import keccak256
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Hash32, Signature, ValidatorIndex, View

MAX_VALIDATORS: Final = 100
"""The limit of the ValidatorSet contract. With 100 validators the votes on a block take 2.8 MB in
the whole network."""

CERTIFICATE_LIMIT_BYTES: Final = 16 + MAX_VALIDATORS * 72
"""Room for the view, and for an index and a 65-byte signature of every possible validator."""


@dataclass(frozen=True, slots=True)
class CommitCertificate:
    """COMMIT signatures of one view, by strictly ascending validator index.

    `chain.consensus.certificates` verifies that it is a quorum of valid signatures.
    """

    view: View
    signatures: tuple[tuple[ValidatorIndex, Signature], ...]

    def to_item(self) -> codec.Encodable:
        """The nested list of the encoding: [view, [[index, signature], ...]]."""
        return [self.view, [[index, signature] for index, signature in self.signatures]]

    def encode(self) -> bytes:
        """The RLP of the certificate."""
        return codec.encode(self.to_item())

    @property
    def hash(self) -> Hash32:
        """keccak256(rlp(certificate)): the extra data of the child block."""
        return keccak256(self.encode())


def certificate_from_item(item: codec.Item) -> CommitCertificate:
    """The certificate of a decoded RLP list.

    Raises:
        RejectedInputError: MALFORMED, also if the indices do not ascend strictly.
    """
    view_item, entries_item = codec.as_list(item, length=2)
    signatures: list[tuple[ValidatorIndex, Signature]] = []
    for entry in codec.as_list(entries_item, max_length=MAX_VALIDATORS):
        index_item, signature_item = codec.as_list(entry, length=2)
        index = ValidatorIndex(codec.as_uint(index_item, bits=16))
        if signatures and index <= signatures[-1][0]:
            raise RejectedInputError(RejectionReason.MALFORMED, "certificate indices not ascending")
        signatures.append((index, Signature(codec.as_bytes(signature_item, length=65))))
    return CommitCertificate(View(codec.as_uint(view_item, bits=64)), tuple(signatures))


def decode_certificate(data: bytes) -> CommitCertificate:
    """The certificate that `data` encodes.

    Raises:
        RejectedInputError: TOO_LARGE or MALFORMED.
    """
    return certificate_from_item(codec.decode(data, limit_bytes=CERTIFICATE_LIMIT_BYTES))
