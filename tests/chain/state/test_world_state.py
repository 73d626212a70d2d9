from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chain.crypto import keccak256
from chain.genesis import GenesisAccount, build_alloc
from chain.primitives import EMPTY_TRIE_ROOT
from chain.state import world_state
from chain.state.world_state import WorldState, get_account, get_code, get_storage

ADDRESSES = [bytes([n]) * 20 for n in range(3)]
addresses = st.sampled_from(ADDRESSES)
slots = st.integers(0, 2)
values = st.integers(0, 3)


class WorldStateMachine(RuleBasedStateMachine):
    """The overlay against a plain dictionary of accounts, copied at every checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        alloc = {ADDRESSES[0]: GenesisAccount(5, 1, b"\x01", {1: 2})}
        root, nodes = build_alloc(alloc)
        self.database: dict[bytes, bytes] = dict(nodes)
        self.world = WorldState(self.database, root)
        self.model: dict[bytes, tuple] = {ADDRESSES[0]: (5, 1, b"\x01", {1: 2})}
        self.checkpoints: list[tuple[int, dict]] = []

    def _change(self, address: bytes, position: int, value: object) -> None:
        account = list(self.model.get(address, (0, 0, b"", {})))
        account[position] = value
        self.model = {**self.model, address: tuple(account)}

    @rule(address=addresses, value=values)
    def set_balance(self, address: bytes, value: int) -> None:
        self.world.set_balance(address, value)
        self._change(address, 0, value)

    @rule(address=addresses)
    def increment_nonce(self, address: bytes) -> None:
        nonce = self.model.get(address, (0, 0))[1]
        self.world.increment_nonce(address)
        self._change(address, 1, nonce + 1)

    @rule(address=addresses, code=st.binary(max_size=2))
    def set_code(self, address: bytes, code: bytes) -> None:
        self.world.set_code(address, code)
        self._change(address, 2, code)

    @rule(address=addresses, slot=slots, value=values)
    def set_storage(self, address: bytes, slot: int, value: int) -> None:
        if address in self.model:
            self.world.set_storage(address, slot, value)
            self._change(address, 3, {**self.model[address][3], slot: value})

    @rule(address=addresses)
    def delete_storage(self, address: bytes) -> None:
        if address in self.model:
            self.world.delete_storage(address)
            self._change(address, 3, {})

    @rule(address=addresses)
    def delete_account(self, address: bytes) -> None:
        self.world.delete_account(address)
        self.model = {key: value for key, value in self.model.items() if key != address}

    @rule()
    def record(self) -> None:
        self.checkpoints.append((self.world.record(), self.model))

    @rule()
    def discard(self) -> None:
        if self.checkpoints:
            checkpoint, self.model = self.checkpoints.pop()
            self.world.discard(checkpoint)

    @rule()
    def begin_transaction(self) -> None:
        self.world.lock_changes()
        self.checkpoints.clear()

    @invariant()
    def values_and_root_are_the_models(self) -> None:
        for address in ADDRESSES:
            balance, nonce, code, storage = self.model.get(address, (0, 0, b"", {}))
            assert self.world.get_balance(address) == balance
            assert self.world.get_nonce(address) == nonce
            assert self.world.get_code(address) == code
            assert self.world.account_exists(address) == (address in self.model)
            for slot in range(3):
                assert self.world.get_storage(address, slot) == storage.get(slot, 0)
        root, delta = self.world.compute_delta()
        held = {**self.database, **delta}
        for address in ADDRESSES:
            balance, nonce, code, storage = self.model.get(address, (0, 0, b"", {}))
            account = get_account(held, root, address)
            assert (account is not None) == (address in self.model)
            if account is not None:
                assert (account.balance, account.nonce) == (balance, nonce)
                assert get_code(held, root, address) == code
                for slot in range(3):
                    assert get_storage(held, root, address, slot) == storage.get(slot, 0)


TestWorldState = WorldStateMachine.TestCase
TestWorldState.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_the_value_before_the_transaction_is_remembered() -> None:
    root, nodes = build_alloc({ADDRESSES[0]: GenesisAccount(nonce=1, storage={1: 7})})
    world = WorldState(dict(nodes), root)
    world.set_storage(ADDRESSES[0], 1, 8)
    world.set_storage(ADDRESSES[0], 1, 9)
    assert world.get_storage(ADDRESSES[0], 1, from_journal=False) == 7
    world.lock_changes()
    assert world.get_storage(ADDRESSES[0], 1, from_journal=False) == 9


def test_warm_and_transient_marks_are_undone_and_end_with_the_transaction() -> None:
    world = WorldState({}, EMPTY_TRIE_ROOT)
    checkpoint = world.record()
    world.mark_address_warm(ADDRESSES[0])
    world.mark_storage_warm(ADDRESSES[0], 1)
    world.set_transient_storage(ADDRESSES[0], 1, b"\x05")
    world.discard(checkpoint)
    assert not world.is_address_warm(ADDRESSES[0])
    assert not world.is_storage_warm(ADDRESSES[0], 1)
    assert world.get_transient_storage(ADDRESSES[0], 1) == b""
    world.mark_address_warm(ADDRESSES[0])
    world.set_transient_storage(ADDRESSES[0], 1, b"\x05")
    world.lock_changes()
    assert not world.is_address_warm(ADDRESSES[0])
    assert world.get_transient_storage(ADDRESSES[0], 1) == b""


def test_touched_empty_accounts_are_removed() -> None:
    world = WorldState({}, EMPTY_TRIE_ROOT)
    world.touch_account(ADDRESSES[0])
    world.set_balance(ADDRESSES[1], 1)
    world.delete_touched_empty()
    assert not world.account_exists(ADDRESSES[0])
    assert world.account_exists(ADDRESSES[1])


def test_the_same_changes_in_any_order_give_the_same_root() -> None:
    roots = set()
    for order in (ADDRESSES, ADDRESSES[::-1]):
        world = WorldState({}, EMPTY_TRIE_ROOT)
        for address in order:
            world.set_balance(address, 9)
            for slot in (2, 1):
                world.set_storage(address, slot, 3)
        roots.add(world.compute_delta()[0])
    assert len(roots) == 1


class CountingDatabase:
    """Entries of a state, and how often each was read."""

    def __init__(self, entries: Mapping[bytes, bytes]) -> None:
        self.entries = entries
        self.reads: Counter[bytes] = Counter()

    def get(self, key: bytes) -> bytes | None:
        self.reads[key] += 1
        return self.entries.get(key)


def test_code_is_read_from_the_database_once() -> None:
    root, nodes = build_alloc({ADDRESSES[0]: GenesisAccount(1, 0, b"\x01")})
    database = CountingDatabase(nodes)
    world = WorldState(database, root)
    assert [world.get_code(ADDRESSES[0]) for _ in range(3)] == [b"\x01"] * 3
    assert database.reads[keccak256(b"\x01")] == 1


def test_kept_code_has_a_bound_and_stays_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_state, "KEPT_CODE_BYTES", 5)
    code = {address: bytes([n + 1] * (n + 1)) for n, address in enumerate(ADDRESSES)}
    root, nodes = build_alloc({key: GenesisAccount(1, 0, value) for key, value in code.items()})
    database = CountingDatabase(nodes)
    world = WorldState(database, root)
    assert {address: world.get_code(address) for address in ADDRESSES * 2} == code
    # The third code, of three bytes, finds no room beside the first two; then there is room for
    # the first, and the second finds none beside these.
    assert [database.reads[keccak256(code[address])] for address in ADDRESSES] == [2, 2, 2]


def test_code_that_was_only_read_is_no_change() -> None:
    root, nodes = build_alloc({ADDRESSES[0]: GenesisAccount(1, 0, b"\x01")})
    world = WorldState(nodes, root)
    world.get_code(ADDRESSES[0])
    world.set_balance(ADDRESSES[0], 1)
    _, delta = world.compute_delta()
    assert keccak256(b"\x01") not in delta
