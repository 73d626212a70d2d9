"""Rules of the whole tree, and the agreement of documents and code."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

FLOAT_MODULES = {f"chain/training/{name}.py" for name in ("encoding", "aggregation", "optimizer")}
"""The only modules of chain/ with floats and numpy (docs/adr/0008)."""

TEST_NAME_LIMIT = 70

CITATION = re.compile(
    r"docs/(?P<page>[A-Za-z0-9_/-]+(?:\.md)?)"
    r"(?:,\s+(?:sections?\s+)?(?P<sections>\d+(?:(?:,| and| to)\s+\d+)*))?"
)
MACHINE_PATHS = re.compile(
    r"(?<![\w.])/(?:home|root|Users|work|mnt)/\w|/var/folders/\w|/tmp/\w|\.\./share" + "d"
)
TEXT_SUFFIXES = {
    *(".py", ".md", ".toml", ".sol", ".cjs", ".sh", ".txt", ".json", ".lock", ".yml", ""),
}


@cache
def tracked_files() -> tuple[str, ...]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        return tuple(name for name in listed.stdout.splitlines() if (ROOT / name).is_file())
    # Without git this is an unpacked archive. Make and the tools write to directories with a dot.
    paths = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    skipped = {"node_modules", "devnet", "build", "__pycache__"}
    return tuple(
        path.as_posix()
        for path in paths
        if not any(part in skipped or part.startswith(".") for part in path.parts)
    )


def modules_of(*packages: str) -> list[str]:
    return [
        name for name in tracked_files() if name.endswith(".py") and name.split("/")[0] in packages
    ]


@cache
def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def parse(name: str) -> ast.Module:
    return ast.parse(read(name))


def float_uses(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=float() | complex()):
                found.append(f"{node.lineno}: the literal {node.value}")
            case ast.Name(id="float"):
                found.append(f"{node.lineno}: float")
            case ast.BinOp(op=ast.Div()) | ast.AugAssign(op=ast.Div()):
                found.append(f"{node.lineno}: a division")
            case ast.Import(names=names) if any(n.name.split(".")[0] == "numpy" for n in names):
                found.append(f"{node.lineno}: numpy")
            case ast.ImportFrom(module=str() as module) if module.split(".")[0] == "numpy":
                found.append(f"{node.lineno}: numpy")
            case _:
                pass
    return found


def constants_without_reason(tree: ast.Module) -> list[str]:
    found = []
    for node, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                is_documented = isinstance(following, ast.Expr) and isinstance(
                    following.value, ast.Constant
                )
                is_public = not name.startswith("_")
                if "Final" in ast.unparse(annotation) and is_public and not is_documented:
                    found.append(name)
            case _:
                pass
    return found


def long_test_names(tree: ast.Module) -> list[str]:
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and len(node.name) > TEST_NAME_LIMIT
    ]


@cache
def headings(page: str) -> frozenset[int]:
    return frozenset(int(number) for number in re.findall(r"^## (\d+)\b", read(page), re.MULTILINE))


def resolve_page(cited: str) -> str | None:
    """The file of a citation, in which a decision may be cited by its number alone."""
    if (ROOT / "docs" / cited).is_file():
        return f"docs/{cited}"
    if cited.startswith("adr/"):
        decisions = sorted((ROOT / "docs/adr").glob(cited.removeprefix("adr/") + "-*.md"))
        if len(decisions) == 1:
            return decisions[0].relative_to(ROOT).as_posix()
    return None


def bad_citations(text: str) -> list[str]:
    found = []
    for citation in CITATION.finditer(text):
        page = resolve_page(citation["page"])
        if page is None:
            found.append(f"{citation[0]}: no such page")
        elif citation["sections"]:
            numbers = {int(number) for number in re.findall(r"\d+", citation["sections"])}
            if numbers - headings(page):
                found.append(f"{citation[0]}: no such section")
    return found


def test_chain_has_no_floats_outside_the_three_modules() -> None:
    found = {name: float_uses(parse(name)) for name in modules_of("chain")}
    assert {name: uses for name, uses in found.items() if uses and name not in FLOAT_MODULES} == {}
    assert all(found[name] for name in FLOAT_MODULES)


def test_every_public_constant_of_the_chain_has_its_reason() -> None:
    found = {name: constants_without_reason(parse(name)) for name in modules_of("chain")}
    assert {name: constants for name, constants in found.items() if constants} == {}


def test_every_page_and_section_that_code_cites_exists() -> None:
    sources = [
        name
        for name in tracked_files()
        if name.split("/")[0] in ("chain", "node", "miner", "contracts", "tests", "examples")
        and name.endswith((".py", ".sol", ".cjs", ".toml"))
        and name != "tests/test_tidy.py"
    ]
    found = {name: bad_citations(read(name)) for name in sources}
    assert {name: citations for name, citations in found.items() if citations} == {}


def test_links_between_documents_lead_somewhere() -> None:
    pages = [name for name in tracked_files() if name.endswith(".md")]
    broken = [
        f"{page}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#:]+)\)", read(page))
        if not ((ROOT / page).parent / target).exists()
    ]
    assert broken == []


def test_no_path_of_a_machine_is_in_the_tree() -> None:
    found = [
        f"{name}: {match[0]}"
        for name in tracked_files()
        if Path(name).suffix in TEXT_SUFFIXES and not name.startswith("tests/vectors/")
        for match in MACHINE_PATHS.finditer(read(name))
    ]
    assert found == []


def test_every_folder_of_the_product_has_a_folder_of_tests() -> None:
    folders = {
        Path(name).parent
        for name in modules_of("chain", "node", "miner", "pot_common")
        if Path(name).name not in ("__init__.py", "__main__.py")
    }
    tested = {Path(name).parent for name in modules_of("tests") if "/test_" in name}
    assert sorted(str(folder) for folder in folders if "tests" / folder not in tested) == []


def test_no_test_has_a_name_of_more_than_70_characters() -> None:
    found = {name: long_test_names(parse(name)) for name in modules_of("tests")}
    assert {name: names for name, names in found.items() if names} == {}


def test_readme_of_the_tests_names_every_world() -> None:
    worlds = {Path(name).name for name in tracked_files() if name.startswith("tests/worlds/")}
    named = set(re.findall(r"`worlds/(\w+\.py)`", read("tests/README.md")))
    assert named == worlds


@pytest.mark.parametrize(
    "source",
    [
        "x = 1 / 2",
        "x /= 2",
        "x = 0.5",
        "x: float = y",
        "import numpy as np",
        "from numpy import pi",
    ],
)
def test_a_float_would_be_found(source: str) -> None:
    assert float_uses(ast.parse(source)) != []


def test_a_constant_without_a_reason_would_be_found() -> None:
    assert constants_without_reason(ast.parse("A: Final = 1\nB: Final[int] = 2\n'why'")) == ["A"]


def test_a_long_test_name_would_be_found() -> None:
    limit, longer = (f"test_{'x' * count}" for count in (65, 66))
    tree = ast.parse(f"def {limit}(): ...\nasync def {longer}(): ...")
    assert long_test_names(tree) == [longer]


@pytest.mark.parametrize(
    "text",
    [
        "docs/spec/consensus.md, section 99",
        "docs/spec/consensus.md, sections 2 and 99",
        "docs/spec/nothing.md",
        "docs/adr/9999",
    ],
)
def test_a_wrong_citation_would_be_found(text: str) -> None:
    assert bad_citations(text) != []


def test_a_path_of_a_machine_would_be_found() -> None:
    assert MACHINE_PATHS.search("see /" + "home/ada/chain")
    assert MACHINE_PATHS.search("see .." + "/shared/notes")
