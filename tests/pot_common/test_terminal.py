import pytest

from pot_common.terminal import format_error

LONG = "no node answers at " + "http://127.0.0.1:8545, " * 5 + "so start one"


def test_error_is_wrapped_to_the_terminal_of_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = format_error(LONG).split("\n")
    assert max(map(len, lines)) <= 60
    assert " ".join(line.strip() for line in lines) == f"error: {LONG}"


@pytest.mark.parametrize("columns", ["", "0", "wide"])
def test_program_that_reads_an_error_gets_one_line(
    monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert format_error(LONG) == f"error: {LONG}"
