import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.hexadecimal import from_hex, from_plain_hex, to_hex


@given(st.binary(max_size=64))
def test_bytes_come_back_from_their_hex(data: bytes) -> None:
    assert from_hex(to_hex(data)) == data


def test_hex_is_lower_case_with_a_prefix() -> None:
    assert to_hex(b"\x00\xab") == "0x00ab"


def test_digits_are_read_in_either_case() -> None:
    assert from_hex("0xAbCd") == b"\xab\xcd"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        "0X00",
        "0x0",
        "0xzz",
        "0x00 00",
        "0x 00",
        "0x00\n",
        "0x\u0660\u0660",
        None,
        0,
        b"0x00",
    ],
)
def test_other_spellings_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="hex"):
        from_hex(text)


@pytest.mark.parametrize("text", ["ab", "0xab"])
def test_plain_hex_may_lack_its_prefix(text: str) -> None:
    assert from_plain_hex(text) == b"\xab"


@pytest.mark.parametrize("text", ["a", "0x0xab", "a b", "zz"])
def test_plain_hex_is_two_digits_a_byte(text: str) -> None:
    with pytest.raises(ValueError, match="hex"):
        from_plain_hex(text)
