from itertools import pairwise

from chain.crypto import sha256
from chain.primitives import TaskId
from chain.training.architectures import count_parameters
from chain.training.assignment import assign, compute_seed
from chain.training.attempt import AttemptId
from chain.training.attempt_description import describe_attempt
from chain.training.encoding import GradientHeader
from tests.worlds.training import SPEC, miner_address

ATTEMPT = AttemptId(TaskId(3), 7, 1)
MIX_HASH, THETA_ROOT = sha256(b"mix"), sha256(b"theta")
MINERS = ((miner_address(1), 2), (miner_address(2), 6))


def test_description_gives_the_assignment_of_its_seed() -> None:
    description = describe_attempt(ATTEMPT, SPEC, chain_id=5, mix_hash=MIX_HASH)

    seed = compute_seed(MIX_HASH, ATTEMPT)
    expected = assign(seed, MINERS, SPEC.sample_count, SPEC.samples_per_unit)
    assert description.seed == seed
    assert description.assign(MINERS) == expected


def test_description_gives_the_header_of_each_miner() -> None:
    description = describe_attempt(ATTEMPT, SPEC, chain_id=5, mix_hash=MIX_HASH)

    assert description.build_header(miner_address(2), THETA_ROOT) == GradientHeader(
        attempt_id=ATTEMPT,
        parameter_count=count_parameters(SPEC.model),
        chain_id=5,
        theta_root=THETA_ROOT,
        seed=compute_seed(MIX_HASH, ATTEMPT),
        miner=miner_address(2),
    )


def test_attempt_ids_are_ordered_as_attempts_follow_each_other() -> None:
    follows = [
        AttemptId(TaskId(1), 0, 0),
        AttemptId(TaskId(1), 0, 1),
        AttemptId(TaskId(1), 1, 0),
        AttemptId(TaskId(2), 0, 0),
    ]
    assert all(earlier < later for earlier, later in pairwise(follows))
