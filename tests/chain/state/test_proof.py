from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.errors import RejectedInputError
from chain.genesis import GenesisAccount, build_alloc
from chain.primitives import Address
from chain.state.proof import ProvenState, build_state_proof

CONTRACT, OTHER, NOBODY = (Address(bytes([n]) * 20) for n in (1, 2, 3))
WORDS = st.integers(1, 2**256 - 1)


@settings(max_examples=40)
@given(st.dictionaries(st.integers(0, 400), WORDS, max_size=60), st.data())
def test_proof_gives_the_stored_values_and_missing_nodes_are_not_zero(
    storage: dict[int, int], data: st.DataObject
) -> None:
    state_root, database = build_alloc(
        {CONTRACT: GenesisAccount(nonce=1, storage=storage), OTHER: GenesisAccount(balance=7)}
    )
    slots = data.draw(st.lists(st.integers(0, 400), max_size=8))
    reads = {CONTRACT: slots, NOBODY: (0,)}
    nodes = build_state_proof(database, state_root, reads)
    state = ProvenState(state_root, nodes)
    assert [state.get_storage(CONTRACT, slot) for slot in slots] == [
        storage.get(slot, 0) for slot in slots
    ]
    assert state.get_storage(NOBODY, 0) == 0
    assert len(set(nodes)) == len(nodes)
    missing = data.draw(st.integers(0, len(nodes) - 1))
    torn = ProvenState(state_root, nodes[:missing] + nodes[missing + 1 :])
    for slot in slots:
        with suppress(RejectedInputError):
            assert torn.get_storage(CONTRACT, slot) == storage.get(slot, 0)


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_malformed_proof_is_refused(nodes: list[bytes]) -> None:
    state_root, _ = build_alloc({CONTRACT: GenesisAccount(nonce=1, storage={1: 2})})
    with pytest.raises(RejectedInputError):
        ProvenState(state_root, nodes).get_storage(CONTRACT, 1)
