"""Samples: each encodes fixed values, and names the encoders that it stands for.

A sample gives one line of conformance.toml, or several if it returns a dictionary. It names
encoders by class and function, not by module, so a move changes nothing. While a sample runs, the
functions of the product that it calls are noted, because a name alone proves nothing.
"""

import hashlib
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeAlias

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "tests/conformance.toml"
PACKAGES = ("chain", "node", "miner", "pot_common")

COMMAND = "python -m tests.conformance --write"
HEADER = f"""\
# The hash of every format of this program, and of 20 simulated worlds; tests/test_conformance.py
# computes them anew. A line that changes is a new format: other nodes and stored data speak the old
# one. `{COMMAND}` writes this file; commit that alone, and say why.

"""

Value: TypeAlias = "int | str | bytes | Iterable[Value] | Mapping[str, Value] | None"
"""The value that a sample returns."""

Function: TypeAlias = tuple[str, str]
"""A function: its file, from the root of the repository, and its name with its class."""


@dataclass(frozen=True)
class Sample:
    """One concept, and the function that makes its bytes."""

    name: str
    claims: tuple[str, ...]
    """The encoders that the lines of this sample cover, as `function` or `Class.function`."""
    build: Callable[[], Value]


@dataclass(frozen=True)
class Outcome:
    """The result of a sample."""

    lines: dict[str, str]
    called: frozenset[Function]
    """The functions of the product that ran."""


SAMPLES: dict[str, Sample] = {}


def sample(name: str, *claims: str) -> Callable[[Callable[[], Value]], Callable[[], Value]]:
    """Register a function as the sample of a concept."""

    def register(build: Callable[[], Value]) -> Callable[[], Value]:
        assert name not in SAMPLES, f"two samples are named {name}"
        SAMPLES[name] = Sample(name, claims, build)
        return build

    return register


def serialize(value: Value) -> bytes:
    """A byte string for a value; different values have different strings."""
    match value:
        case None:
            return b"n;"
        case int():
            return f"i{int(value)};".encode()
        case str():
            encoded = str(value).encode()
            return f"s{len(encoded)}:".encode() + encoded
        case bytes():
            return f"b{len(value)}:".encode() + value
        case Mapping():
            pairs = [serialize(key) + serialize(value[key]) for key in sorted(value)]
            return f"m{len(pairs)}:".encode() + b"".join(pairs)
        case _:
            items = [serialize(item) for item in value]
            return f"l{len(items)}:".encode() + b"".join(items)


def compute_line(value: Value) -> str:
    """The hash in the table for a value; plain bytes are hashed as they are."""
    return hashlib.sha256(value if isinstance(value, bytes) else serialize(value)).hexdigest()


def run_sample(each: Sample) -> Outcome:
    """The lines of a sample and the functions that it called."""
    called: set[Function] = set()
    roots = tuple(f"{ROOT / package}/" for package in PACKAGES)

    def note(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(roots):
            called.add((code.co_filename, code.co_qualname))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        value = each.build()
    finally:
        sys.setprofile(before)
    if isinstance(value, dict):
        lines = {f"{each.name}.{key}": compute_line(part) for key, part in value.items()}
    else:
        lines = {each.name: compute_line(value)}
    return Outcome(
        lines,
        frozenset((Path(path).relative_to(ROOT).as_posix(), name) for path, name in called),
    )


def run_all() -> dict[str, Outcome]:
    """The outcome of every sample, by its name."""
    return {name: run_sample(each) for name, each in sorted(SAMPLES.items())}


def collect_lines(outcomes: Iterable[Outcome]) -> dict[str, str]:
    """The lines of all samples, in the order of the table."""
    lines: dict[str, str] = {}
    for outcome in outcomes:
        assert not lines.keys() & outcome.lines.keys(), "two samples give one line"
        lines.update(outcome.lines)
    return dict(sorted(lines.items()))


def read_table() -> dict[str, str]:
    """The recorded lines."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def write_table(lines: Mapping[str, str]) -> None:
    """Record lines."""
    text = "".join(f'"{name}" = "{line}"\n' for name, line in sorted(lines.items()))
    TABLE.write_text(HEADER + text, encoding="utf-8")


def describe_differences(recorded: Mapping[str, str], computed: Mapping[str, str]) -> str:
    """A text about the changed lines and what to do; empty if there are none."""
    found = [
        *(
            f"changed: {name}"
            for name in sorted(recorded.keys() & computed.keys())
            if recorded[name] != computed[name]
        ),
        *(f"without a line: {name}" for name in sorted(computed.keys() - recorded.keys())),
        *(f"a line without a sample: {name}" for name in sorted(recorded.keys() - computed.keys())),
    ]
    if not found:
        return ""
    return (
        "\n".join(found)
        + "\nA changed line means a new format, or that the simulated network behaves in another "
        f"way. If that is what you want, record it with `{COMMAND}` in a commit of its own that "
        "says why."
    )
