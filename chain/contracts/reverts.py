"""Explains the errors of the contracts to the sender, with the cure (docs/operator-guide.md)."""

from collections.abc import Callable, Mapping
from typing import Final

from chain.amounts import format_amount
from chain.contracts.errors import ContractError
from chain.contracts.gradient_ledger import MIN_WINDOW_BLOCKS, Phase
from chain.contracts.miner_seats import IDLE_BLOCKS
from chain.contracts.task_registry import TaskStatus

Argument = int | str | bool


def _status(value: Argument) -> str:
    known = {int(status) for status in TaskStatus}
    return TaskStatus(int(value)).name.lower() if value in known else f"of status {value}"


def _phase(value: Argument) -> str:
    known = {int(phase) for phase in Phase}
    return Phase(int(value)).name.lower() if value in known else str(value)


def _name_possible(task: Argument, status: Argument) -> str:
    """What can be done with a task of a status in the place of what was refused."""
    match status:
        case TaskStatus.CLOSED:
            return (
                f"nothing can be done but take back what is left (`pot task refund {task}`); to go "
                "on, submit it again as a new task"
            )
        case TaskStatus.PAUSED:
            return "it can be funded, extended, cancelled or resumed, and is refunded once closed"
        case TaskStatus.PENDING | TaskStatus.ACTIVE:
            return (
                "it can be funded, extended or cancelled; only a paused task can be resumed, and "
                "only a closed one refunded"
            )
        case _:
            return "this is not possible"


TERMS: Final[Mapping[str, str]] = {
    "lifetimeSeconds": (
        "the network sells no lifetime that ends so late; give a shorter --lifetime (the most is "
        "max_lifetime_seconds in the parameters of `pot_getGenesis`)"
    ),
    "auditPpm": (
        "the registry refuses the task's audit_probability: it must be 1, because validators "
        "check every gradient"
    ),
    "attempts": "the network sells from 1 to 2147483648 attempts; give other --attempts",
    "budget": "the budget does not pay for one round; give a larger --budget",
    "amount": "nothing would be added; give a larger --amount",
    "unitPrice": "the registry refuses the task's unit_price: 0, or more than a round may cost",
    "commitSeconds": "the registry refuses the task's commit_seconds: too short or too long",
    "verdictSeconds": "the registry refuses the task's verdict_seconds: too short or too long",
    "resultSeconds": "the registry refuses the task's result_seconds: too short or too long",
    "minMiners": "the registry refuses the task's min_miners: 0, or too many for max_units",
    "minUnits": "the registry refuses the task's min_units: below min_miners, or too large",
}
"""What the registry refuses about a task, by its own name of the term, with the names of the task
file and of options."""

DECIMALS: Final = "(with 18 decimals, as POT has)"
"""Follows an amount of a token that may have others."""

MEANINGS: Final[Mapping[str, Callable[..., str]]] = {
    "TaskUnknown": lambda task: f"there is no task {task}; `pot task list` shows those there are",
    "TaskNotSubmitter": lambda caller: (
        f"account {caller} did not submit this task; give --key the account that did "
        "(`pot task show`)"
    ),
    "TaskWrongStatus": lambda task, status: (
        f"task {task} is {_status(status)}, so {_name_possible(task, status)}"
    ),
    "TaskNothingToRefund": lambda task: (
        f"nothing of task {task} is left to refund: all is paid, or was refunded before"
    ),
    "TaskInvalidTerms": lambda field: TERMS.get(
        str(field), f"the registry refuses the task's {field}; change it"
    ),
    "TaskNoFreeSlot": lambda slots: (
        f"all {slots} slots of the network are taken; try again when a task has ended"
    ),
    "TaskFeeTooHigh": lambda fee, limit: (
        f"the fee is {format_amount(fee)} POT, above the {format_amount(limit)} POT that were "
        "allowed: prices rise with the number of open tasks; try again, or raise --max-fee"
    ),
    "TaskIsOver": lambda task: f"task {task} is over, so it cannot be extended; submit a new one",
    "TaskNotExpired": lambda task: f"task {task} is not over yet (`pot task show {task}`)",
    "TaskAnswersOver": lambda task: f"task {task} takes no answers of validators any more",
    "TaskNothingToWithdraw": lambda account: f"account {account} has earned nothing by answers",
    "TaskSpecTooLarge": lambda size, limit: (
        f"the specification has {size} bytes, {limit} are allowed; name fewer shards or layers"
    ),
    "TaskInexactTransfer": lambda expected, received: (
        f"the task's token moved {format_amount(received)} instead of {format_amount(expected)} "
        f"{DECIMALS}; a token that takes a fee from transfers cannot pay a task"
    ),
    "SeatsAlreadyRegistered": lambda task, miner: (
        f"account {miner} has a seat in task {task}, or the last attempt of its seat is not over, "
        "or it lost too much of its bonds to take the seat again; then it can register after "
        f"`pot miner withdraw {task}`"
    ),
    "SeatsNotRegistered": lambda task, miner: (
        f"account {miner} has no seat in task {task}, or its seat has ended (`pot miner status "
        f"{task}`); check --key and the task id"
    ),
    "SeatsNotActive": lambda task: (
        f"task {task} takes no miners: it is pending or closed; `pot task list` shows others"
    ),
    "SeatsAttemptOpening": lambda task: (
        f"an attempt of task {task} has just opened; try again in the next block"
    ),
    "SeatsAttemptOwed": lambda task, _miner: (
        f"a new seat in task {task} must take part in one attempt first; leave once that attempt "
        f"has opened, after {IDLE_BLOCKS} blocks in which none opens, or while an attempt without "
        "the seat takes commitments; but a seat that has displaced others waits until an attempt "
        "opens or the task is closed, unless it is paused or lacks miners or units"
    ),
    "SeatsBondLocked": lambda task, _miner: (
        f"the bonds in task {task} are locked while the seat goes on, and as long as its last "
        f"attempt can be fined, which is {3 * MIN_WINDOW_BLOCKS} blocks or more; "
        f"`pot miner status {task}` says how many are left"
    ),
    "SeatsInvalidUnits": lambda units: (
        f"{units} units are not allowed; give --units from 1 to the task's max_units, or those of "
        "the account's earlier seat while its bonds are in the task"
    ),
    "SeatsTooFewUnits": lambda least: (
        f"a seat of this task has at least {least} units; give --units {least} or more"
    ),
    "SeatsNotParticipating": lambda task, miner: (
        f"account {miner} takes no part in this attempt of task {task}: it registered after the "
        "attempt opened, or its seat has ended"
    ),
    "SeatsTaskFull": lambda units: (
        f"only {units} units of the task are free; give fewer --units, or mine another task"
    ),
    "SeatsNotDisplaceable": lambda task, miner: (
        f"the seat of {miner} in task {task} cannot be displaced: its term is not over, there is "
        "room without it, it has more than twice the units of the new seat, or too few seats or "
        "units for an attempt would be left; try again"
    ),
    "SeatsTooManyMiners": lambda limit: (
        f"the task has {limit} miners, as many as a task can have; mine another"
    ),
    "LedgerWrongPhase": lambda task, phase: (
        f"task {task} is in phase {_phase(phase)}, in which this is not possible; wait for the "
        "next round"
    ),
    "SeatsNothingToWithdraw": lambda: "the account has no credit in this token; nothing to do",
    "DistributorNothingToClaim": lambda task, account: (
        f"account {account} has claimed all it earned of task {task}"
    ),
    "DistributorInvalidProof": lambda task, account: (
        f"the proof for account {account} is not of task {task}'s present root; a round was just "
        "settled: try again"
    ),
    "ValidatorSetAlreadySlashed": lambda validator: (
        f"validator {validator} was slashed, so its operator has no votes and no stake any more; "
        "join with another consensus key and another operator account"
    ),
    "LedgerPayoutTooLarge": lambda payout, limit: (
        f"the result pays {format_amount(payout)} of the task's token, above the "
        f"{format_amount(limit)} {DECIMALS} that are reserved for its attempt; the votes for it "
        "are wrong"
    ),
    "DistributorExceedsPaid": lambda task, claimed, paid: (
        f"with this claim {format_amount(claimed)} of the token of task {task} were claimed, and "
        f"{format_amount(paid)} {DECIMALS} were paid for it; the votes for its rewards are wrong"
    ),
    "FaucetTooSoon": lambda account, block: (
        f"the faucet served account {account} lately; ask again from block {block} on"
    ),
    "ERC20InsufficientBalance": lambda account, balance, needed: (
        f"account {account} has {format_amount(balance)} of the token and needs "
        f"{format_amount(needed)} {DECIMALS}; send it the difference"
    ),
    "ERC20InsufficientAllowance": lambda spender, allowance, needed: (
        f"{spender} may take {format_amount(allowance)} of the token and needs "
        f"{format_amount(needed)} {DECIMALS}; approve it"
    ),
}
"""The explanation and the cure by the error's name; a function of the error's arguments."""


def describe_revert(error: ContractError) -> str:
    """The error in one line, with the cure where it is known."""
    meaning = MEANINGS.get(error.name)
    return f"the contract refuses: {error}" if meaning is None else meaning(*error.arguments)
