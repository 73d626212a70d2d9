"""A signed transaction, decoded strictly (docs/spec/state-transition.md, section 4).

Ethereum's types 0 (legacy), 1 (EIP-2930), 2 (EIP-1559) and 4 (EIP-7702). Blob transactions (3) are
refused: this chain has no blob market.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from chain import codec
from chain.crypto import keccak256, recover, sign
from chain.errors import InvalidTransaction, RejectedInputError, RejectionReason
from chain.primitives import Address, Hash32, PrivateKey
from chain.types.block import TRANSACTION_LIMIT_BYTES

LEGACY_TYPE: Final = 0
"""The type before EIP-2718: an RLP list without a type byte."""

ACCESS_LIST_TYPE: Final = 1
"""EIP-2930: a gas price and an access list."""

DYNAMIC_FEE_TYPE: Final = 2
"""EIP-1559: the type that wallets send."""

SET_CODE_TYPE: Final = 4
"""EIP-7702: an account delegates to code."""

AUTHORIZATION_MAGIC: Final = b"\x05"
"""EIP-7702: the prefix of the message that an authorization signs."""

FIELD_COUNTS: Final = {
    LEGACY_TYPE: 9,
    ACCESS_LIST_TYPE: 11,
    DYNAMIC_FEE_TYPE: 12,
    SET_CODE_TYPE: 13,
}
"""The number of fields of each type, the signature's three included."""

GAS_LIMIT_INDEXES: Final = {
    LEGACY_TYPE: 2,
    ACCESS_LIST_TYPE: 3,
    DYNAMIC_FEE_TYPE: 4,
    SET_CODE_TYPE: 4,
}
"""The place of the gas limit among the fields of each type. Recipient, value, data and the lists
follow it.
"""

SIGNATURE_FIELD_COUNT: Final = 3
"""The last fields of each type: v or the parity, r and s."""

FIRST_LIST_PREFIX: Final = 0xC0
"""RLP: a legacy transaction is a list, so it begins with this byte or a higher one."""

EMPTY_LIST: Final = b"\xc0"
"""RLP: the encoding of a list without items."""

AUTHORIZATION_FIELD_COUNT: Final = 6
"""The number of fields of an authorization, the signature's three included."""

ADDRESS_PREFIX: Final = 0x94
"""RLP: the first byte of the encoding of an address."""

KEY_PREFIX: Final = b"\xa0"
"""RLP: the first byte of the encoding of a storage key."""

AccessList = tuple[tuple[Address, tuple[Hash32, ...]], ...]
"""EIP-2930: addresses with the storage keys that the transaction declares."""


@dataclass(frozen=True, slots=True)
class Authorization:
    """EIP-7702: an account's signed permission to run the code of `address` in its name.

    It is not verified here. The execution skips a bad authorization; the transaction stays valid.
    """

    chain_id: int
    address: Address
    nonce: int
    y_parity: int
    r: int
    s: int


@dataclass(frozen=True, slots=True)
class Transaction:
    """A signed transaction, decoded, with its hash and sender."""

    raw: bytes
    """The EIP-2718 encoding, as in blocks and messages."""
    hash: Hash32
    type: int
    chain_id: int | None
    """None only for a legacy transaction that was signed without EIP-155."""
    nonce: int
    max_fee_per_gas: int
    """Wei for a unit of gas; in a legacy transaction both fees are the gas price."""
    max_priority_fee_per_gas: int
    gas_limit: int
    to: Address | None
    """None if the transaction creates a contract."""
    value: int
    """Wei."""
    data: bytes
    access_list: AccessList
    authorization_list: tuple[Authorization, ...]
    v: int
    """The signature's v as encoded: 27, 28 or EIP-155's value for legacy, otherwise the parity."""
    y_parity: int
    r: int
    s: int
    sender: Address

    def compute_effective_gas_price(self, base_fee_per_gas: int) -> int:
        """The price of a unit of gas, in wei, in a block with that base fee."""
        return min(self.max_fee_per_gas, base_fee_per_gas + self.max_priority_fee_per_gas)

    @property
    def cost(self) -> int:
        """The wei that the sender must own: the gas limit at the highest price, plus the value."""
        return self.gas_limit * self.max_fee_per_gas + self.value

    @property
    def created_address(self) -> Address | None:
        """Where a contract creation puts the contract; None for a message to an account."""
        if self.to is not None:
            return None
        return Address(keccak256(codec.encode([self.sender, self.nonce]))[12:])


def decode_transaction(raw: bytes) -> Transaction:
    """The signed transaction that `raw` canonically encodes.

    Raises:
        InvalidTransaction: TOO_LARGE, MALFORMED, TRANSACTION_TYPE, or BAD_SIGNATURE (also for a
            high s: EIP-2).
    """
    try:
        transaction_type, fields = _split_fields(raw)
        if transaction_type == LEGACY_TYPE:
            return _decode_legacy(raw, fields)
        return _TYPED_DECODERS[transaction_type](raw, fields)
    except InvalidTransaction:
        raise
    except RejectedInputError as error:
        raise InvalidTransaction(error.reason, error.detail) from error


@dataclass(frozen=True, slots=True)
class Outline:
    """What bounds the intrinsic gas of a transaction, read without decoding its lists."""

    gas_limit: int
    to: Address | None
    """None if the transaction creates a contract."""
    data: bytes
    access_list_bytes: int
    """The length of the encodings of the access list's entries."""
    authorizations: bytes
    """The encoded list of authorizations; an empty list in types that have none."""


def decode_outline(raw: bytes) -> Outline:
    """The outline of an encoded transaction; whatever else is in `raw` is not checked.

    Raises:
        InvalidTransaction: As `decode_transaction` raises it.
    """
    try:
        return _read_outline(raw)
    except InvalidTransaction:
        raise
    except RejectedInputError as error:
        raise InvalidTransaction(error.reason, error.detail) from error


def _read_outline(raw: bytes) -> Outline:
    transaction_type, fields = _split_fields(raw)
    gas_limit_index = GAS_LIMIT_INDEXES[transaction_type]
    gas_limit, to, _, data, *lists = fields[gas_limit_index:-SIGNATURE_FIELD_COUNT]
    access_list = EMPTY_LIST if transaction_type == LEGACY_TYPE else lists[0]
    return Outline(
        gas_limit=_decode_uint(gas_limit, bits=64),
        to=_decode_recipient(to),
        data=codec.decode_bytes(data),
        access_list_bytes=codec.measure_list(access_list),
        authorizations=lists[1] if transaction_type == SET_CODE_TYPE else EMPTY_LIST,
    )


def _split_fields(raw: bytes) -> tuple[int, list[bytes]]:
    """The type of a transaction, and the encodings of its fields."""
    if len(raw) > TRANSACTION_LIMIT_BYTES:
        raise InvalidTransaction(
            RejectionReason.TOO_LARGE, f"{len(raw)} bytes, limit {TRANSACTION_LIMIT_BYTES}"
        )
    if not raw:
        raise InvalidTransaction(RejectionReason.MALFORMED, "no bytes")
    if raw[0] >= FIRST_LIST_PREFIX:
        return LEGACY_TYPE, _split(raw, FIELD_COUNTS[LEGACY_TYPE])
    if raw[0] not in _TYPED_DECODERS:
        raise InvalidTransaction(RejectionReason.TRANSACTION_TYPE, f"type {raw[0]}")
    return raw[0], _split(raw[1:], FIELD_COUNTS[raw[0]])


def _split(payload: bytes, field_count: int) -> list[bytes]:
    """The encodings of the fields of a transaction or an authorization.

    The fields are not decoded together: what is signed consists of these very bytes, and nothing
    is decoded before it has the right form. A list of 130 000 items costs 80 ms otherwise.
    """
    fields = codec.split_fields(payload, limit_items=field_count)
    if len(fields) != field_count:
        raise RejectedInputError(
            RejectionReason.MALFORMED, f"expected {field_count} items, got {len(fields)}"
        )
    return fields


def _decode_legacy(raw: bytes, fields: list[bytes]) -> Transaction:
    v = _decode_uint(fields[6], bits=64)
    unsigned = fields[:6]
    if v in (27, 28):
        chain_id, y_parity = None, v - 27
    elif v >= 35:
        chain_id, y_parity = divmod(v - 35, 2)
        unsigned = [*unsigned, codec.encode(chain_id), codec.encode(b""), codec.encode(b"")]
    else:
        raise InvalidTransaction(RejectionReason.BAD_SIGNATURE, f"v is {v}")
    r, s = _decode_uint(fields[7], bits=256), _decode_uint(fields[8], bits=256)
    gas_price = _decode_uint(fields[1], bits=256)
    return Transaction(
        raw=raw,
        hash=keccak256(raw),
        type=LEGACY_TYPE,
        chain_id=chain_id,
        nonce=_decode_uint(fields[0], bits=64),
        max_fee_per_gas=gas_price,
        max_priority_fee_per_gas=gas_price,
        gas_limit=_decode_uint(fields[2], bits=64),
        to=_decode_recipient(fields[3]),
        value=_decode_uint(fields[4], bits=256),
        data=codec.decode_bytes(fields[5]),
        access_list=(),
        authorization_list=(),
        v=v,
        y_parity=y_parity,
        r=r,
        s=s,
        sender=_recover_sender(keccak256(codec.join_list(unsigned)), y_parity, r, s),
    )


def _decode_access_list_type(raw: bytes, fields: list[bytes]) -> Transaction:
    gas_price = _decode_uint(fields[2], bits=256)
    return _build_typed(
        raw,
        signed=fields[:8],
        signature=fields[8:],
        fees=(gas_price, gas_price),
        call=fields[3:7],
        access_list=fields[7],
        authorization_list=(),
    )


def _decode_dynamic_fee(raw: bytes, fields: list[bytes]) -> Transaction:
    return _build_typed(
        raw,
        signed=fields[:9],
        signature=fields[9:],
        fees=(_decode_uint(fields[3], bits=256), _decode_uint(fields[2], bits=256)),
        call=fields[4:8],
        access_list=fields[8],
        authorization_list=(),
    )


def _decode_set_code(raw: bytes, fields: list[bytes]) -> Transaction:
    authorization_list = _decode_authorization_list(fields[9])
    if not authorization_list or _decode_recipient(fields[5]) is None:
        raise InvalidTransaction(
            RejectionReason.MALFORMED, "a set-code transaction needs a recipient and authorizations"
        )
    return _build_typed(
        raw,
        signed=fields[:10],
        signature=fields[10:],
        fees=(_decode_uint(fields[3], bits=256), _decode_uint(fields[2], bits=256)),
        call=fields[4:8],
        access_list=fields[8],
        authorization_list=authorization_list,
    )


_TYPED_DECODERS: Final[dict[int, Callable[[bytes, list[bytes]], Transaction]]] = {
    ACCESS_LIST_TYPE: _decode_access_list_type,
    DYNAMIC_FEE_TYPE: _decode_dynamic_fee,
    SET_CODE_TYPE: _decode_set_code,
}
"""Decoders by the type byte of EIP-2718."""


def _build_typed(
    raw: bytes,
    *,
    signed: list[bytes],
    signature: list[bytes],
    fees: tuple[int, int],
    call: list[bytes],
    access_list: bytes,
    authorization_list: tuple[Authorization, ...],
) -> Transaction:
    y_parity = _decode_uint(signature[0], bits=1)
    r, s = _decode_uint(signature[1], bits=256), _decode_uint(signature[2], bits=256)
    gas_limit, to, value, data = call
    return Transaction(
        raw=raw,
        hash=keccak256(raw),
        type=raw[0],
        chain_id=_decode_uint(signed[0], bits=64),
        nonce=_decode_uint(signed[1], bits=64),
        max_fee_per_gas=fees[0],
        max_priority_fee_per_gas=fees[1],
        gas_limit=_decode_uint(gas_limit, bits=64),
        to=_decode_recipient(to),
        value=_decode_uint(value, bits=256),
        data=codec.decode_bytes(data),
        access_list=_decode_access_list(access_list),
        authorization_list=authorization_list,
        v=y_parity,
        y_parity=y_parity,
        r=r,
        s=s,
        sender=_recover_sender(keccak256(raw[:1] + codec.join_list(signed)), y_parity, r, s),
    )


def recover_authority(authorization: Authorization) -> Address | None:
    """The account that signed an authorization; None if the signature is bad (EIP-7702)."""
    if authorization.y_parity > 1:
        return None
    digest = keccak256(
        AUTHORIZATION_MAGIC
        + codec.encode([authorization.chain_id, authorization.address, authorization.nonce])
    )
    r, s = (value.to_bytes(32, "big") for value in (authorization.r, authorization.s))
    return recover(digest, r + s + bytes([authorization.y_parity]))


def _recover_sender(digest: Hash32, y_parity: int, r: int, s: int) -> Address:
    signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([y_parity])
    sender = recover(digest, signature)
    if sender is None:
        raise InvalidTransaction(RejectionReason.BAD_SIGNATURE, "does not recover, or high s")
    return sender


def _decode_uint(field: bytes, *, bits: int) -> int:
    return codec.as_uint(codec.decode_bytes(field), bits=bits)


def _decode_recipient(field: bytes) -> Address | None:
    recipient = codec.decode_bytes(field)
    return Address(codec.as_bytes(recipient, length=20)) if recipient else None


def _decode_access_list(field: bytes) -> AccessList:
    """The access list that `field` encodes, read in one pass: it may have 5 600 addresses."""
    is_list, start, end = codec.read_prefix(field, 0, len(field))
    if not is_list:
        raise _not_an_access_list()
    entries: list[tuple[Address, tuple[Hash32, ...]]] = []
    while start < end:
        is_list, address_start, entry_end = codec.read_prefix(field, start, end)
        keys_start = address_start + 21
        if not is_list or keys_start >= entry_end or field[address_start] != ADDRESS_PREFIX:
            raise _not_an_access_list()
        is_list, first, keys_end = codec.read_prefix(field, keys_start, entry_end)
        prefixes = field[first:keys_end:33]
        if (
            not is_list
            or keys_end != entry_end
            or (keys_end - first) % 33
            or prefixes != KEY_PREFIX * len(prefixes)
        ):
            raise _not_an_access_list()
        keys = tuple(Hash32(field[at + 1 : at + 33]) for at in range(first, keys_end, 33))
        entries.append((Address(field[address_start + 1 : keys_start]), keys))
        start = entry_end
    return tuple(entries)


def _not_an_access_list() -> RejectedInputError:
    return RejectedInputError(RejectionReason.MALFORMED, "not an access list")


def _decode_authorization_list(field: bytes) -> tuple[Authorization, ...]:
    is_list, start, end = codec.read_prefix(field, 0, len(field))
    if not is_list:
        raise RejectedInputError(RejectionReason.MALFORMED, "expected a list of authorizations")
    authorizations: list[Authorization] = []
    while start < end:
        _, _, entry_end = codec.read_prefix(field, start, end)
        authorizations.append(_decode_authorization(field[start:entry_end]))
        start = entry_end
    return tuple(authorizations)


def _decode_authorization(entry: bytes) -> Authorization:
    chain_id, address, nonce, y_parity, r, s = _split(entry, AUTHORIZATION_FIELD_COUNT)
    return Authorization(
        chain_id=_decode_uint(chain_id, bits=256),
        address=Address(codec.as_bytes(codec.decode_bytes(address), length=20)),
        nonce=_decode_uint(nonce, bits=64),
        y_parity=_decode_uint(y_parity, bits=8),
        r=_decode_uint(r, bits=256),
        s=_decode_uint(s, bits=256),
    )


def sign_transaction(
    private_key: PrivateKey,
    *,
    chain_id: int,
    nonce: int,
    max_fee_per_gas: int,
    max_priority_fee_per_gas: int,
    gas_limit: int,
    to: Address | None,
    value: int = 0,
    data: bytes = b"",
) -> Transaction:
    """The type-2 transaction of these fields, signed by the account of `private_key`."""
    unsigned: list[codec.Encodable] = [
        chain_id,
        nonce,
        max_priority_fee_per_gas,
        max_fee_per_gas,
        gas_limit,
        to or b"",
        value,
        data,
        [],
    ]
    prefix = bytes([DYNAMIC_FEE_TYPE])
    signature = sign(keccak256(prefix + codec.encode(unsigned)), private_key)
    r, s = (int.from_bytes(signature[start : start + 32], "big") for start in (0, 32))
    return decode_transaction(prefix + codec.encode([*unsigned, signature[64], r, s]))
