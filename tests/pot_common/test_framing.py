from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.json_types import JsonObject
from pot_common.framing import NODE_FRAMES, FrameError, FrameFormat, FrameReader

SMALL = FrameFormat(limit_bytes=16)
MESSAGES: list[JsonObject] = [{"id": 1}, {"text": "é"}, {}]


@pytest.mark.parametrize("is_ascii", [False, True])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_messages_survive_any_cut_of_the_stream(size: int, is_ascii: bool) -> None:
    frames = FrameFormat(limit_bytes=100, is_ascii=is_ascii)
    stream = b"".join(frames.encode(message) for message in MESSAGES)
    reader = FrameReader(frames)
    got = [
        message
        for start in range(0, len(stream), size)
        for message in reader.feed(stream[start : start + size])
    ]
    assert got == MESSAGES


def test_messages_are_read_from_a_blocking_stream() -> None:
    stream = BytesIO(b"".join(NODE_FRAMES.encode(message) for message in MESSAGES))
    assert [NODE_FRAMES.read(stream) for _ in range(4)] == [*MESSAGES, None]


def test_frames_are_compact_utf_8_or_spaced_ascii() -> None:
    message: JsonObject = {"a": ["é", 1]}
    assert NODE_FRAMES.encode(message) == '\0\0\0\x0e{"a":["é",1]}'.encode()
    ascii_frames = FrameFormat(limit_bytes=100, is_ascii=True)
    assert ascii_frames.encode(message) == b'\0\0\0\x14{"a": ["\\u00e9", 1]}'


def test_frames_are_bounded_in_both_directions() -> None:
    with pytest.raises(FrameError, match="a frame of 17 bytes, limit 16"):
        SMALL.encode({"text": "123456"})
    SMALL.encode({"text": "12345"})
    too_long = (17).to_bytes(4, "big")
    with pytest.raises(FrameError, match="limit"):
        FrameReader(SMALL).feed(too_long)
    with pytest.raises(FrameError, match="limit"):
        SMALL.read(BytesIO(too_long + bytes(17)))


@pytest.mark.parametrize("data", [b"\0\0", b"\0\0\0\x05{}"])
def test_stream_that_ends_inside_a_frame_is_an_error(data: bytes) -> None:
    with pytest.raises(FrameError, match="ends inside a frame"):
        NODE_FRAMES.read(BytesIO(data))


@pytest.mark.parametrize("body", [b"[]", b"{{", b"\xff\xff", b"7", b""])
def test_body_that_is_not_a_json_object_is_an_error(body: bytes) -> None:
    data = len(body).to_bytes(4, "big") + body
    with pytest.raises(FrameError, match="not"):
        NODE_FRAMES.read(BytesIO(data))
    with pytest.raises(FrameError, match="not"):
        FrameReader(NODE_FRAMES).feed(data)


@given(st.binary(max_size=40))
def test_any_bytes_are_messages_or_a_frame_error(data: bytes) -> None:
    reader, stream = FrameReader(SMALL), BytesIO(data)
    try:
        fed = reader.feed(data)
    except FrameError:
        return
    assert fed == [SMALL.read(stream) for _ in fed]
