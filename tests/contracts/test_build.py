"""The committed build is what the sources compile to (docs/spec/contracts.md, section 2)."""

import json
import re
from pathlib import Path

from chain.contracts import addresses
from contracts import build

ROOT = Path(__file__).parents[2]
ADDRESSES = {
    name: getattr(addresses, name)
    for name in (
        "TRAINING_TOKEN",
        "VALIDATOR_SET",
        "TASK_REGISTRY",
        "GRADIENT_LEDGER",
        "REWARD_DISTRIBUTOR",
        "FAUCET",
        "MINER_SEATS",
    )
}


def test_compiling_again_gives_the_committed_bytes() -> None:
    artifacts = build.build(may_download=False)
    assert len(artifacts) == 10, "nine contracts and the tables of their ABIs"
    assert build.find_differences(artifacts) == []


def test_a_difference_is_named() -> None:
    folder = ROOT / "contracts" / "build"
    texts = {
        path: path.read_text()
        for target in build.SOURCE_FOLDERS.values()
        for path in (ROOT / target).glob("*.json")
    }
    texts[build.TABLES] = build.TABLES.read_text()
    assert build.find_differences(texts) == []
    texts[folder / "Faucet.json"] += " "
    del texts[folder / "ValidatorSet.json"]
    texts[folder / "New.json"] = "{}"
    texts[build.TABLES] += "\n"
    assert build.find_differences(texts) == [
        "chain/contracts/tables.py",
        "contracts/build/Faucet.json",
        "contracts/build/New.json",
        "contracts/build/ValidatorSet.json",
    ]


def test_tables_are_made_from_the_committed_build() -> None:
    folder = ROOT / "contracts" / "build"
    artifacts = {path: path.read_text() for path in folder.glob("*.json")}
    assert build.render_tables(artifacts) == build.TABLES.read_text()


def test_contracts_find_each_other_where_genesis_puts_them() -> None:
    source = (ROOT / "contracts/src/libraries/SystemAddresses.sol").read_text()
    found = re.findall(r"constant (\w+) = 0x([0-9a-fA-F]{40});", source)
    assert {name: bytes.fromhex(value) for name, value in found} == ADDRESSES


def test_every_contract_fits_into_an_account() -> None:
    sizes = {
        path.stem: len(json.loads(path.read_text())["deployedBytecode"]) // 2 - 1
        for path in (ROOT / "contracts" / "build").glob("*.json")
    }
    assert set(sizes) == {
        "TrainingToken",
        "ValidatorSet",
        "TaskRegistry",
        "GradientLedger",
        "RewardDistributor",
        "Faucet",
        "MinerSeats",
    }
    assert max(sizes.values()) <= 24_576


def test_packages_are_pinned_by_hash_and_by_no_host() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text())
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages["node_modules/solc"]["version"] == build.SOLC_VERSION
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert not any("resolved" in package for package in packages.values())
