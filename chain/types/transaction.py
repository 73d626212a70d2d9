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
    if len(raw) > TRANSACTION_LIMIT_BYTES:
        raise InvalidTransaction(
            RejectionReason.TOO_LARGE, f"{len(raw)} bytes, limit {TRANSACTION_LIMIT_BYTES}"
        )
    if not raw:
        raise InvalidTransaction(RejectionReason.MALFORMED, "no bytes")
    is_legacy = raw[0] >= 0xC0
    decode_payload = _decode_legacy if is_legacy else _TYPED_DECODERS.get(raw[0])
    if decode_payload is None:
        raise InvalidTransaction(RejectionReason.TRANSACTION_TYPE, f"type {raw[0]}")
    try:
        item = codec.decode(raw if is_legacy else raw[1:], limit_bytes=TRANSACTION_LIMIT_BYTES)
        return decode_payload(raw, item)
    except InvalidTransaction:
        raise
    except RejectedInputError as error:
        raise InvalidTransaction(error.reason, error.detail) from error


def _decode_legacy(raw: bytes, item: codec.Item) -> Transaction:
    fields = codec.as_list(item, length=9)
    v = codec.as_uint(fields[6], bits=64)
    unsigned: list[codec.Item] = fields[:6]
    if v in (27, 28):
        chain_id, y_parity = None, v - 27
    elif v >= 35:
        chain_id, y_parity = divmod(v - 35, 2)
        unsigned = [*unsigned, _uint_item(chain_id), b"", b""]
    else:
        raise InvalidTransaction(RejectionReason.BAD_SIGNATURE, f"v is {v}")
    r, s = codec.as_uint(fields[7], bits=256), codec.as_uint(fields[8], bits=256)
    gas_price = codec.as_uint(fields[1], bits=256)
    return Transaction(
        raw=raw,
        hash=keccak256(raw),
        type=LEGACY_TYPE,
        chain_id=chain_id,
        nonce=codec.as_uint(fields[0], bits=64),
        max_fee_per_gas=gas_price,
        max_priority_fee_per_gas=gas_price,
        gas_limit=codec.as_uint(fields[2], bits=64),
        to=_as_recipient(fields[3]),
        value=codec.as_uint(fields[4], bits=256),
        data=codec.as_bytes(fields[5]),
        access_list=(),
        authorization_list=(),
        v=v,
        y_parity=y_parity,
        r=r,
        s=s,
        sender=_recover_sender(keccak256(codec.encode(unsigned)), y_parity, r, s),
    )


def _decode_access_list(raw: bytes, item: codec.Item) -> Transaction:
    fields = codec.as_list(item, length=11)
    gas_price = codec.as_uint(fields[2], bits=256)
    return _build_typed(
        raw,
        signed=fields[:8],
        signature=fields[8:],
        nonce=fields[1],
        fees=(gas_price, gas_price),
        call=fields[3:7],
        access_list=fields[7],
        authorization_list=(),
    )


def _decode_dynamic_fee(raw: bytes, item: codec.Item) -> Transaction:
    fields = codec.as_list(item, length=12)
    return _build_typed(
        raw,
        signed=fields[:9],
        signature=fields[9:],
        nonce=fields[1],
        fees=(codec.as_uint(fields[3], bits=256), codec.as_uint(fields[2], bits=256)),
        call=fields[4:8],
        access_list=fields[8],
        authorization_list=(),
    )


def _decode_set_code(raw: bytes, item: codec.Item) -> Transaction:
    fields = codec.as_list(item, length=13)
    authorizations = codec.as_list(fields[9])
    if not authorizations or fields[5] == b"":
        raise InvalidTransaction(
            RejectionReason.MALFORMED, "a set-code transaction needs a recipient and authorizations"
        )
    return _build_typed(
        raw,
        signed=fields[:10],
        signature=fields[10:],
        nonce=fields[1],
        fees=(codec.as_uint(fields[3], bits=256), codec.as_uint(fields[2], bits=256)),
        call=fields[4:8],
        access_list=fields[8],
        authorization_list=tuple(_as_authorization(entry) for entry in authorizations),
    )


_TYPED_DECODERS: Final[dict[int, Callable[[bytes, codec.Item], Transaction]]] = {
    ACCESS_LIST_TYPE: _decode_access_list,
    DYNAMIC_FEE_TYPE: _decode_dynamic_fee,
    SET_CODE_TYPE: _decode_set_code,
}
"""Decoders by the type byte of EIP-2718."""


def _build_typed(
    raw: bytes,
    *,
    signed: list[codec.Item],
    signature: list[codec.Item],
    nonce: codec.Item,
    fees: tuple[int, int],
    call: list[codec.Item],
    access_list: codec.Item,
    authorization_list: tuple[Authorization, ...],
) -> Transaction:
    y_parity = codec.as_uint(signature[0], bits=1)
    r, s = codec.as_uint(signature[1], bits=256), codec.as_uint(signature[2], bits=256)
    gas_limit, to, value, data = call
    return Transaction(
        raw=raw,
        hash=keccak256(raw),
        type=raw[0],
        chain_id=codec.as_uint(signed[0], bits=64),
        nonce=codec.as_uint(nonce, bits=64),
        max_fee_per_gas=fees[0],
        max_priority_fee_per_gas=fees[1],
        gas_limit=codec.as_uint(gas_limit, bits=64),
        to=_as_recipient(to),
        value=codec.as_uint(value, bits=256),
        data=codec.as_bytes(data),
        access_list=_as_access_list(access_list),
        authorization_list=authorization_list,
        v=y_parity,
        y_parity=y_parity,
        r=r,
        s=s,
        sender=_recover_sender(keccak256(raw[:1] + codec.encode(signed)), y_parity, r, s),
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


def _uint_item(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _as_recipient(item: codec.Item) -> Address | None:
    return None if item == b"" else Address(codec.as_bytes(item, length=20))


def _as_access_list(item: codec.Item) -> AccessList:
    entries = (codec.as_list(entry, length=2) for entry in codec.as_list(item))
    return tuple(
        (
            Address(codec.as_bytes(address, length=20)),
            tuple(Hash32(codec.as_bytes(key, length=32)) for key in codec.as_list(keys)),
        )
        for address, keys in entries
    )


def _as_authorization(item: codec.Item) -> Authorization:
    chain_id, address, nonce, y_parity, r, s = codec.as_list(item, length=6)
    return Authorization(
        chain_id=codec.as_uint(chain_id, bits=256),
        address=Address(codec.as_bytes(address, length=20)),
        nonce=codec.as_uint(nonce, bits=64),
        y_parity=codec.as_uint(y_parity, bits=8),
        r=codec.as_uint(r, bits=256),
        s=codec.as_uint(s, bits=256),
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
