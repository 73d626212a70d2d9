import numpy as np
import pytest

from chain.crypto import content_id, merkle_leaf, merkle_node
from chain.errors import RejectedInputError
from chain.training.architectures import count_parameters
from chain.training.optimizer import apply_update, initial_state
from chain.training.state import (
    TrainingState,
    build_training_state,
    compute_model_root,
    compute_part_ids,
    compute_training_state_root,
)
from tests.worlds.training import ADAMW, SPEC, random_gradient


def trained() -> TrainingState:
    size = count_parameters(SPEC.model)
    theta = np.full(size, 0.5, np.float32).tobytes()
    state = initial_state(ADAMW, theta)
    return apply_update(ADAMW, 10**7, state, random_gradient(1, size))


def test_model_root_is_content_id_of_theta_and_first_in_state_root() -> None:
    state = trained()
    ids = [content_id(part) for part in state.parts]
    assert compute_model_root(state) == ids[0]
    assert compute_part_ids(state) == tuple(ids)
    leaves = [merkle_leaf(part_id) for part_id in ids]
    assert compute_training_state_root(state) == merkle_node(
        merkle_node(leaves[0], leaves[1]), merkle_node(leaves[2], leaves[3])
    )


def test_a_state_without_tensors_has_another_root_than_its_model() -> None:
    state = TrainingState(b"\0\0\0\0", ())
    assert compute_training_state_root(state) == merkle_leaf(compute_model_root(state))


def test_a_state_comes_back_from_its_parts() -> None:
    state = trained()
    root = compute_training_state_root(state)
    assert build_training_state(state.parts, SPEC, root) == state


def test_another_state_or_length_is_refused() -> None:
    state = trained()
    root = compute_training_state_root(state)
    first, *others = state.parts
    changed = bytes([first[0] ^ 1]) + first[1:]
    with pytest.raises(RejectedInputError, match="is not the one of root"):
        build_training_state([changed, *others], SPEC, root)
    for parts in ([first[:-1], *others], others):
        with pytest.raises(RejectedInputError, match="parts of the state"):
            build_training_state(parts, SPEC, root)
