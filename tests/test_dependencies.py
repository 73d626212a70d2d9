"""The packages that pyproject.toml names are those that are imported, to run and to test."""

import ast
import re
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions

import pytest

from tests.test_tidy import ROOT, modules_of, parse

PRODUCT = ("chain", "node", "miner", "pot_common")
OTHERS = ("bench", "contracts", "examples", "tests", "tools")

LOADED_BY_OTHERS = {
    "httptools": "the parser that uvicorn is told to use",
    "safe-pysha3": "the backend that eth-hash loads",
}
"""Dependencies that no module of ours imports, and why they are named."""

IN_ANOTHER_ENVIRONMENT = {"tests/judge/reference.py": "requirements-judge.txt"}
"""Modules that run in an environment of their own, and the file that names its packages."""

BROUGHT_ALONG = {"pydantic-core": "pydantic"}
"""Packages of which another one requires exactly one version."""


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def list_named(requirements: list[str]) -> set[str]:
    """The packages that requirements name, without their versions."""
    return {normalize(re.split(r"[^A-Za-z0-9_.-]", line)[0]) for line in requirements}


def find_imported(tree: ast.AST) -> set[str]:
    """Top names of the imports that run, those inside functions too."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), orelse=orelse):
                found |= find_imported(ast.Module(orelse, []))
            case ast.Import(names=names):
                found |= {each.name.split(".")[0] for each in names}
            case ast.ImportFrom(module=str() as module):
                found.add(module.split(".")[0])
            case ast.stmt() | ast.excepthandler() | ast.match_case():
                found |= find_imported(node)
    return found


@cache
def find_owners() -> Mapping[str, list[str]]:
    """The installed packages of each top name that can be imported; slow to find."""
    return packages_distributions()


def list_packages(*folders: str) -> set[str]:
    """The installed packages that the modules of these folders import."""
    owners = find_owners()
    names = [name for name in modules_of(*folders) if name not in IN_ANOTHER_ENVIRONMENT]
    tops = set().union(*(find_imported(parse(name)) for name in names))
    foreign = {top for top in tops - sys.stdlib_module_names if not (ROOT / top).is_dir()}
    packages = {normalize(owners[top][0]) for top in foreign}
    return {BROUGHT_ALONG.get(package, package) for package in packages}


def read_project() -> tuple[set[str], set[str]]:
    """What pyproject.toml names to run the product, and for its development."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return (
        list_named(project["dependencies"]),
        list_named(project["optional-dependencies"]["dev"]),
    )


def test_dependencies_to_run_are_what_the_product_imports() -> None:
    runtime, _ = read_project()
    assert runtime - LOADED_BY_OTHERS.keys() == list_packages(*PRODUCT)
    assert runtime >= LOADED_BY_OTHERS.keys()


def test_what_tests_and_tools_import_is_named_too() -> None:
    runtime, dev = read_project()
    assert list_packages(*OTHERS) - runtime - dev == set()
    assert runtime & dev == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import a.b, c", {"a", "c"}),
        ("def f():\n    from a.b import c", {"a"}),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", {"b"}),
    ],
)
def test_imports_are_found_where_they_run(source: str, found: set[str]) -> None:
    assert find_imported(ast.parse(source)) == found
