from dataclasses import replace

import pytest

from chain import codec
from chain.errors import RejectedInputError, RejectionReason
from chain.primitives import Hash32
from chain.training.encoding import compute_commitment
from chain.training.reveal import REVEAL_LIMIT_BYTES, Reveal, reveal_from_item
from tests.worlds.training import HEADER

SALT, ROOT, TRAJECTORY = (Hash32(bytes([byte]) * 32) for byte in (0x81, 0x82, 0x83))
STEPS_HEADER = replace(HEADER, local_steps=4)
PLAIN = Reveal(HEADER.attempt_id, HEADER.miner, 4, SALT, ROOT)
WITH_STEPS = replace(PLAIN, trajectory_root=TRAJECTORY)


def decode(reveal: Reveal) -> Reveal:
    return reveal_from_item(codec.decode(reveal.encode(), limit_bytes=REVEAL_LIMIT_BYTES))


@pytest.mark.parametrize("reveal", [PLAIN, WITH_STEPS])
def test_reveal_survives_its_encoding(reveal: Reveal) -> None:
    assert decode(reveal) == reveal


def test_longest_reveal_fits_its_limit() -> None:
    most = replace(
        WITH_STEPS,
        units=2**32 - 1,
        attempt_id=replace(
            HEADER.attempt_id,
            task_id=2**64 - 1,
            round_number=2**32 - 1,
            attempt_number=2**32 - 1,
        ),
    )
    assert decode(most) == most


def test_reveal_opens_the_commitment_of_its_number_of_steps_only() -> None:
    plain = compute_commitment(HEADER, ROOT, SALT, 4)
    with_steps = compute_commitment(STEPS_HEADER, ROOT, SALT, 4, TRAJECTORY)
    assert PLAIN.opens(plain, HEADER)
    assert WITH_STEPS.opens(with_steps, STEPS_HEADER)
    for reveal in (PLAIN, WITH_STEPS):
        for header in (HEADER, STEPS_HEADER):
            opened = {each for each in (plain, with_steps) if reveal.opens(each, header)}
            is_pair = (reveal is WITH_STEPS) == (header is STEPS_HEADER)
            assert opened == ({with_steps if reveal is WITH_STEPS else plain} if is_pair else set())
    other = replace(WITH_STEPS, trajectory_root=ROOT)
    assert not other.opens(with_steps, STEPS_HEADER)


@pytest.mark.parametrize("count", [0, 6, 9])
def test_reveal_with_another_number_of_fields_is_refused(count: int) -> None:
    fields = codec.as_list(codec.decode(WITH_STEPS.encode(), limit_bytes=REVEAL_LIMIT_BYTES))
    fields = (fields + fields)[:count]
    with pytest.raises(RejectedInputError) as refusal:
        reveal_from_item(fields)
    assert refusal.value.reason is RejectionReason.MALFORMED


def test_trajectory_root_of_another_length_is_refused() -> None:
    fields = codec.as_list(codec.decode(WITH_STEPS.encode(), limit_bytes=REVEAL_LIMIT_BYTES))
    with pytest.raises(RejectedInputError):
        reveal_from_item([*fields[:7], TRAJECTORY[:31]])
