from pathlib import Path

import pytest

from chain.consensus.evidence import Evidence
from chain.primitives import Address, BlockNumber
from node.consensus.evidence_store import EvidenceStore
from pot_common.errors import OperatorError

ONE = Evidence(Address(b"\x01" * 20), BlockNumber(7), b"one")
TWO = Evidence(Address(b"\x02" * 20), BlockNumber(8), b"two")


def test_evidence_outlives_the_process_until_it_is_removed(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path / "evidence")
    store.add(TWO)
    store.add(ONE)
    assert store.held() == EvidenceStore(tmp_path / "evidence").held() == (ONE, TWO)
    store.remove(ONE.validator)
    store.remove(ONE.validator)
    assert store.held() == EvidenceStore(tmp_path / "evidence").held() == (TWO,)


def test_one_evidence_against_a_validator_is_enough(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path)
    store.add(ONE)
    store.add(Evidence(ONE.validator, BlockNumber(9), b"another"))
    assert store.held() == (ONE,)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_costs_only_the_memory_of_it(tmp_path: Path) -> None:
    store = EvidenceStore(tmp_path / "evidence")
    (tmp_path / "evidence").rmdir()
    store.add(ONE)
    assert store.held() == (ONE,)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"validator": 1, "number": 2, "data": ""}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / f"0x{'11' * 20}.json"
    path.write_text(text)
    with pytest.raises(OperatorError, match=str(path)):
        EvidenceStore(tmp_path)
    path.write_text(" " * 5_000)
    with pytest.raises(OperatorError, match="too long"):
        EvidenceStore(tmp_path)
