import string

import pytest
from eth_abi import encode

from chain.contracts.abi import compute_selector
from chain.contracts.errors import ERRORS, ContractError, decode_error
from chain.contracts.reverts import MEANINGS, describe_revert
from chain.contracts.task_registry import TaskStatus

VALUES = {"uint": 4, "address": "0x" + "11" * 20, "string": "unitPrice", "bytes32": b"\x01" * 32}


@pytest.mark.parametrize("name", sorted(MEANINGS))
def test_meaning_is_one_line_of_an_error_that_the_contracts_have(name: str) -> None:
    types = ERRORS[name]
    values = [VALUES[each.rstrip(string.digits) if each != "bytes32" else each] for each in types]
    error = decode_error(compute_selector(name, types) + encode(types, values))
    assert error is not None
    said = describe_revert(error)
    assert "\n" not in said
    assert name not in said


def test_error_without_a_meaning_is_spelled_out() -> None:
    error = ContractError("LedgerEvidenceExpired", ())
    assert describe_revert(error) == "the contract refuses: LedgerEvidenceExpired()"


def test_status_that_is_not_known_is_given_as_it_is() -> None:
    assert "is of status 77, so" in describe_revert(ContractError("TaskWrongStatus", (1, 77)))


def test_amounts_of_pot_are_told_in_whole_tokens() -> None:
    high = ContractError("TaskFeeTooHigh", (1_500_000_000_000_000_000, 10**18))
    assert describe_revert(high).startswith("the fee is 1.5 POT, above the 1 POT that were allowed")
    poor = ContractError("ERC20InsufficientBalance", ("0x11", 0, 25 * 10**17))
    assert "has 0 of the token and needs 2.5 " in describe_revert(poor)


def test_no_amount_of_a_token_is_told_in_base_units() -> None:
    amounts = {
        "TaskFeeTooHigh": (15 * 10**17, 10**18),
        "TaskInexactTransfer": (10**18, 15 * 10**17),
        "ERC20InsufficientBalance": ("0x11", 15 * 10**17, 10**18),
        "ERC20InsufficientAllowance": ("0x11", 15 * 10**17, 10**18),
        "LedgerPayoutTooLarge": (15 * 10**17, 10**18),
        "DistributorExceedsPaid": (7, 15 * 10**17, 10**18),
    }
    for name, arguments in amounts.items():
        said = describe_revert(ContractError(name, arguments))
        assert "000000" not in said
        assert " 1.5 " in said


def test_refused_term_is_named_as_in_the_task_file() -> None:
    said = describe_revert(ContractError("TaskInvalidTerms", ("auditPpm",)))
    assert "audit_probability: it must be 1" in said


def test_wrong_status_says_what_is_possible_in_it() -> None:
    said = describe_revert(ContractError("TaskWrongStatus", (7, TaskStatus.CLOSED)))
    assert said.startswith("task 7 is closed, so nothing can be done but take back what is left")
    paused = describe_revert(ContractError("TaskWrongStatus", (7, TaskStatus.PAUSED)))
    assert paused.startswith("task 7 is paused, so it can be funded, extended, cancelled or resu")
