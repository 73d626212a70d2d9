"""Finds all functions of the product that look like encoders, and those without a line.

A function is found by its name, or because it calls something that turns values into bytes. It is
identified by class and name; only the list of a failed test shows its file.
"""

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from tests.conformance.registry import PACKAGES, ROOT, SAMPLES, Function, Outcome

NAMES = re.compile(
    r"_*(encode|encoded|serialize|pack|dump)(_\w+)?"
    r"|_*(\w+_)?to_(item|json|bytes|dict|row|hex)"
    r"|fields|canonical_bytes|_canonical\w*"
    r"|_*compute_(\w+_)?(digest|hash|leaf|root|payload|commitment|seed|ids?|data)"
    r"|_hash_\w+|list_\w+_slots"
)
"""Names of functions that make bytes, or values that are hashed, out of values."""

CALLS = re.compile(
    r"codec\.(encode|join_list)|rlp\.encode|json\.dumps|dump_json|write_atomically"
    r"|(.+\.)?(dump_json|to_bytes|pack)"
)
"""Calls that turn values into bytes."""

EXCLUDED: Mapping[str, tuple[str, ...]] = {
    "JSON and TOML for people and tools; tests/node/rpc and tests/node/cli compare it whole": (
        "Check.to_json",
        "Dispatcher._answer_batch",
        "Dispatcher._encode",
        "Dispatcher.answer",
        "EthMethods._encode_at",
        "EthMethods._encode_block",
        "EthMethods._get_storage_at",
        "Finding.to_json",
        "PotMethods._encode_seat",
        "PotMethods._encode_verdicts",
        "RpcError.to_json",
        "TaskReadiness.to_json",
        "_encode_commitment",
        "_encode_result_record",
        "_encode_validator",
        "_encode_value",
        "_encode_verdicts",
        "_write_json",
        "encode_absence",
        "encode_account",
        "encode_block",
        "encode_block_transaction",
        "encode_config",
        "encode_deadline",
        "encode_evaluation",
        "encode_fee",
        "encode_header",
        "encode_log",
        "encode_lease",
        "encode_logs",
        "encode_obstacles",
        "encode_offer",
        "encode_participants",
        "encode_receipt",
        "encode_records",
        "encode_refusals",
        "encode_resources",
        "encode_round_state",
        "encode_seat",
        "encode_summary",
        "encode_terms",
        "encode_transaction",
        "encode_vote",
        "error_response",
        "json_response",
        "print_json",
    ),
    "Ethereum's own keystore format, with a random salt; eth_keyfile writes it": ("save_key",),
    "writes random bytes as they are": ("load_or_create_host_key",),
    "writes zeros; prometheus_client fills the file": ("_write_empty",),
    "writes down whole files that are other lines, or a person's": (
        "BlobStore._read_manifest",
        "Content.get_spec_path",
        "GradientStore.save",
        "create_database",
        "create_following_directory",
        "create_node_directory",
    ),
    "the devnet's own notes of its processes, gone with them": ("Devnet._write_marker",),
    "arithmetic of the virtual machine; the chain's tests compare it with Ethereum's vectors": (
        "EngineState.get_ancestor_hash",
        "_at",
        "_bn254_output",
        "collect_logs",
        "recover_authority",
        "_modexp",
        "_multiply12",
        "run_code",
    ),
    "reads words of the contracts' storage back; the layout is the lines storage.slots": (
        "read_attempt",
        "read_closed_task",
        "read_next_set_hash",
        "read_participants",
        "read_task",
    ),
    "the training set of an example task, or its numbers; content ids say what they are": (
        "_Table.float32_bits",
        "encode_npz",
        "shuffle_rows",
        "shuffle_rows.<locals>.key",
    ),
    "shows again what another line encodes, to check it against a hash of the chain": (
        "TaskReplay._fetch_events",
        "_canonical",
        "fetch_spec",
    ),
    "writes topics to look for in the blooms of blocks; rpc tests find the events": (
        "find_void_attempts",
        "list_losses",
    ),
    "passes its arguments on to an encoder that is a line": (
        "ServedBlocks.encoded_block",
        "ServedBlocks.encoded_header",
        "ServedBlocks.encoded_receipts",
    ),
    "between a process and the workers that it starts, which are always of its version": (
        "Check.save",
        "encode_request",
    ),
    "Yamux's frames, which py-libp2p defines": (
        "wait_for_slow_readers",
        "wait_for_slow_readers.<locals>.write",
    ),
    "computes many values at once whose definition has a line": ("_RoundTables._hash_missing",),
    "computes the content id of a file piece by piece, and refuses a file of another id": (
        "_hash_file_as_it_arrives",
    ),
}
"""The found functions without a line, by reason; a name is repeated for each such function."""


def list_sources() -> dict[str, str]:
    """The text of every module of the product by its path, including new files before `git add`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {
        name: (ROOT / name).read_text(encoding="utf-8")
        for name in listed.stdout.split()
        if name.endswith(".py") and (ROOT / name).is_file()
    }


def find_encoders(sources: Mapping[str, str]) -> frozenset[Function]:
    """The functions that look like encoders."""
    return frozenset((path, name) for path, text in sources.items() for name in _find_names(text))


@cache
def _find_names(text: str) -> frozenset[str]:
    """The encoders of one module."""
    tree = ast.parse(text)
    abi_names = frozenset(_list_abi_names(tree))
    return frozenset(
        name
        for name, function in _walk(tree, "")
        if not _is_declaration(function)
        and (NAMES.fullmatch(function.name) or _makes_bytes(function, abi_names))
    )


def find_covered(outcomes: Mapping[str, Outcome]) -> frozenset[Function]:
    """The functions that a sample names and has called."""
    return frozenset(
        function
        for name, outcome in outcomes.items()
        for function in outcome.called
        if function[1] in SAMPLES[name].claims
    )


def describe_gaps(encoders: Iterable[Function], covered: Iterable[Function]) -> list[str]:
    """Encoders without a line or a reason, and reasons without an encoder."""
    reasons = Counter(name for names in EXCLUDED.values() for name in names)
    missing = sorted(set(encoders) - set(covered))
    left = Counter(name for _, name in missing)
    return [
        *(f"{path}: {name} has no line" for path, name in missing if left[name] > reasons[name]),
        *(f"{name} has a reason and needs none" for name in sorted(reasons - left)),
    ]


_Definition = ast.FunctionDef | ast.AsyncFunctionDef


def _walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, _Definition]]:
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.ClassDef():
                yield from _walk(child, f"{prefix}{child.name}.")
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield f"{prefix}{child.name}", child
                yield from _walk(child, f"{prefix}{child.name}.<locals>.")
            case _:
                yield from _walk(child, prefix)


def _list_abi_names(tree: ast.Module) -> Iterator[str]:
    """The names of eth_abi's `encode` in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("eth_abi"):
            for alias in node.names:
                if alias.name == "encode":
                    yield alias.asname or alias.name


def _is_declaration(function: _Definition) -> bool:
    """Whether the body is only a docstring, as in a method of a protocol."""
    return all(
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        for statement in function.body
    )


def _makes_bytes(function: _Definition, abi_names: frozenset[str]) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in abi_names or CALLS.fullmatch(called) or _puts_row(node, called):
                return True
    return False


def _puts_row(call: ast.Call, called: str) -> bool:
    """Whether a function writes a row of the database."""
    is_put = called.split(".")[-1] in ("put", "put_new") and bool(call.args)
    return is_put and ast.unparse(call.args[0]).startswith("Table.")
