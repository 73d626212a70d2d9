"""Formats on the wire and on disk, and simulated worlds, are the same as recorded."""

import re
from types import FunctionType

import pytest

from chain.contracts import (
    faucet,
    gradient_ledger,
    reward_distributor,
    task_registry,
    training_token,
    validator_set,
)
from chain.types.header import Header
from tests.conformance import discovery, lines, registry, simulations
from tests.conformance.discovery import describe_gaps, find_covered, find_encoders, list_sources
from tests.conformance.registry import SAMPLES, describe_differences, read_table
from tests.simulation.worlds import FAMILIES, draw_world

CONTRACTS = (
    training_token,
    validator_set,
    task_registry,
    gradient_ledger,
    reward_distributor,
    faucet,
)


def test_every_format_is_as_recorded() -> None:
    recorded = {
        name: line for name, line in read_table().items() if not name.startswith("simulation.")
    }
    differences = describe_differences(recorded, lines.compute_sample_lines())
    assert not differences, differences


@pytest.mark.parametrize("seed", simulations.list_seeds())
def test_a_simulated_world_is_as_recorded(seed: int) -> None:
    name = simulations.name_line(seed)
    recorded = {name: read_table().get(name, "nothing")}
    differences = describe_differences(recorded, {name: lines.compute_seed_line(seed)})
    assert not differences, differences


def test_recorded_worlds_are_20_and_of_every_family() -> None:
    seeds = simulations.list_seeds()
    names = {name for name in read_table() if name.startswith("simulation.")}
    assert names == {simulations.name_line(seed) for seed in seeds}
    assert len(seeds) == 20
    drawn = {family: tuple(s for s in seeds if draw_world(s)[0] == family) for family in FAMILIES}
    drawn |= {
        name: tuple(s for s in seeds if draw_world(s)[0] == name)
        for name in ("strict", "sets", "clocks")
    }
    assert drawn == simulations.SEEDS


def test_every_encoder_has_a_line_or_a_reason() -> None:
    encoders = find_encoders(list_sources())
    gaps = describe_gaps(encoders, find_covered(lines.run_samples()))
    assert not gaps, (
        "\n".join(gaps) + "\nGive each a sample in tests/conformance, or a reason in discovery.py."
    )


def test_every_call_and_view_of_the_contracts_has_a_line() -> None:
    functions = {
        (f"chain/contracts/{module.__name__.rpartition('.')[2]}.py", name)
        for module in CONTRACTS
        for name, function in vars(module).items()
        if isinstance(function, FunctionType)
        and re.search("ContractCall|ContractView", str(function.__annotations__.get("return")))
    }
    assert len(functions) > 50
    assert functions <= lines.run_samples()["call"].called


def test_samples_call_every_encoder_that_they_name() -> None:
    idle = [
        f"{name}: {claim}"
        for name, outcome in lines.run_samples().items()
        for claim in SAMPLES[name].claims
        if claim not in {function for _, function in outcome.called}
    ]
    assert idle == []


PLANTED = {
    "by its name": ("def encode_thing(x):\n    return b'' + x", "encode_thing"),
    "a method": ("class New:\n    def to_item(self):\n        return [self.x]", "New.to_item"),
    "a digest": ("def compute_thing_digest(x):\n    return keccak256(x)", "compute_thing_digest"),
    "RLP": ("def ask(x):\n    return send(codec.encode([x]))", "ask"),
    "ABI": (
        "from eth_abi.abi import encode as e\ndef ask(x):\n    return e(['uint8'], [x])",
        "ask",
    ),
    "a row": ("def keep(writer, x):\n    writer.put(Table.META, b'x', x)", "keep"),
    "an integer": ("class Store:\n    def keep(self, x):\n        x.to_bytes(8)", "Store.keep"),
    "a second one of its name": ("def encode_message(x):\n    return x.y", "encode_message"),
}


@pytest.mark.parametrize(("source", "name"), PLANTED.values(), ids=PLANTED)
def test_a_new_encoder_would_be_found(source: str, name: str) -> None:
    sources = {**list_sources(), "node/planted.py": source}
    gaps = describe_gaps(find_encoders(sources), find_covered(lines.run_samples()))
    assert gaps == [f"node/planted.py: {name} has no line"]


def test_a_move_to_another_module_changes_nothing() -> None:
    sources = list_sources()
    outcomes = lines.run_samples()
    path = next(path for path, function in find_covered(outcomes) if function == "Header.encode")
    moved = {("elsewhere.py" if name == path else name): text for name, text in sources.items()}
    covered = {
        ("elsewhere.py" if name == path else name, function)
        for name, function in find_covered(outcomes)
    }
    assert describe_gaps(find_encoders(moved), covered) == []


def test_reason_for_a_removed_encoder_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = {**discovery.EXCLUDED, "another": ("encode_nothing",)}
    monkeypatch.setattr(discovery, "EXCLUDED", reasons)
    gaps = describe_gaps(find_encoders(list_sources()), find_covered(lines.run_samples()))
    assert gaps == ["encode_nothing has a reason and needs none"]


def test_a_changed_encoding_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Header.fields

    def swapped(header: Header) -> list[bytes | int]:
        first, second, *rest = original(header)
        return [second, first, *rest]

    monkeypatch.setattr(Header, "fields", swapped)
    computed = registry.run_sample(SAMPLES["format.header"]).lines
    recorded = {"format.header": read_table()["format.header"]}
    assert describe_differences(recorded, computed).startswith("changed: format.header\n")


def test_lines_too_many_and_too_few_would_be_noticed() -> None:
    differences = describe_differences({"a": "1", "b": "2"}, {"b": "2", "c": "3"})
    assert differences.startswith("without a line: c\na line without a sample: a\n")
    assert registry.COMMAND in differences
