import pytest

from pot_common.json_text import dump_json, parse_json


def test_json_is_written_compactly_and_read_back() -> None:
    assert dump_json({"a": [1, None, "é"]}) == '{"a":[1,null,"é"]}'.encode()
    assert parse_json(dump_json({"a": [1, None, "é"]})) == {"a": [1, None, "é"]}


@pytest.mark.parametrize("text", [b"NaN", b"[Infinity]", b"[" * 200_000, b"\xff", b"", b"1" * 5000])
def test_json_outside_the_standard_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the message is the parser's
        parse_json(text)


def test_numbers_that_json_does_not_have_are_not_written() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        dump_json(float("nan"))
