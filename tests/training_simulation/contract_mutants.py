"""The contracts with one of their rules removed; each is compiled anew, which takes seconds."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Final

import solcx

from tests.simulation.mutants import Mutant, mutate

ROOT: Final = Path(__file__).parents[2]

LEDGER: Final = "contracts/src/GradientLedger.sol"
SEATS: Final = "contracts/src/MinerSeats.sol"
REGISTRY: Final = "contracts/src/TaskRegistry.sol"
DISTRIBUTOR: Final = "contracts/src/RewardDistributor.sol"

CONTRACT_MUTANTS: Final = {
    "one-result-settles": Mutant(
        "a round is settled with the result of one validator",
        LEDGER,
        (("if (++_tallies[vote] == quorum)", "if (++_tallies[vote] == 1)"),),
    ),
    "new-set-judges": Mutant(
        "a change of the validator set changes whose results count in a ballot in progress",
        LEDGER,
        (
            (
                "record.ballotNumber == ballotNumber ? record.setVersion : VALIDATORS",
                "VALIDATORS",
            ),
        ),
    ),
    "late-is-timely": Mutant(
        "a verdict after the phase counts for pay",
        LEDGER,
        (("bool timely = current == Phase.Verdict;", "bool timely = true;"),),
    ),
    "any-quorum-ends-verdicts": Mutant(
        "a quorum that checked too little ends the verdict phase early",
        LEDGER,
        (("bool isDecided = record.completeCount >= needed;", "bool isDecided = true;"),),
    ),
    "fined-bond-stays": Mutant(
        "a slashed miner takes its whole bond back",
        SEATS,
        (("        seat.bond = 0;\n", ""),),
    ),
    "absence-is-free": Mutant(
        "an attempt without a commitment is no miss",
        SEATS,
        (
            (
                "return endedCount > accounted ? endedCount - accounted : 0;",
                "return endedCount > accounted ? 0 : 0;",
            ),
        ),
    ),
    "seat-never-ends": Mutant(
        "a seat goes on after its second miss",
        SEATS,
        (
            (
                "        if (seat.position == 0) return;\n        _endSeat(",
                "        if (seat.position != type(uint32).max) return;\n        _endSeat(",
            ),
        ),
    ),
    "seat-bond-is-safe": Mutant(
        "two misses in eight attempts burn no seat bond",
        SEATS,
        (
            (
                "if (missed & (missed >> i) != 0) _burn",
                "if (missed >> i == missed) _burn",
            ),
        ),
    ),
    "seat-bond-burns-for-any-two-misses": Mutant(
        "two misses that are far apart burn the seat bond",
        SEATS,
        (("MISS_WINDOW = 8;", "MISS_WINDOW = 200;"),),
    ),
    "a-miss-at-the-end-burns-nothing": Mutant(
        "a seat that missed its last attempt keeps its seat bond",
        SEATS,
        (
            (
                "seat.committedAttempt != last || _misses[taskId][msg.sender].last == last",
                "last == 0",
            ),
        ),
    ),
    "a-miss-burns-no-seat-bond": Mutant(
        "a single miss costs nothing of the seat bond",
        SEATS,
        (
            (
                "if (seat.hasSeatBond) emit SeatBondBurnt(taskId, miner, seatBond / MISS_SHARE);",
                "",
            ),
            (
                "seatBond - seat.missCount * (seatBond / MISS_SHARE)",
                "seatBond",
            ),
        ),
    ),
    "empty-attempts-are-used-up": Mutant(
        "an attempt without a commitment is counted as used",
        REGISTRY,
        (("        if (isEmpty) ++lease.attemptsLeft;\n", ""),),
    ),
    "small-newcomer-displaces": Mutant(
        "a newcomer displaces seats of any size",
        SEATS,
        (
            ("if (!isTermOver || seat.units > displaceable) {", "if (!isTermOver) {"),
            ("displaceable -= seat.units;", "displaceable = 0;"),
        ),
    ),
    "no-room-for-missing-seats": Mutant(
        "the first seats of a task may have all of its units",
        SEATS,
        (("if (seatsAfter < task.minMiners) {", "if (seatsAfter == 0) {"),),
    ),
    "few-units-open": Mutant(
        "an attempt opens with any number of units",
        LEDGER,
        (("SEATS.registeredUnits(taskId) >= terms.minUnits", "terms.minUnits != 0"),),
    ),
    "newcomer-takes-the-least-units": Mutant(
        "a newcomer displaces seats without whose units no attempt opens",
        SEATS,
        (("task.registeredUnits + units < task.minUnits", "task.minUnits == 0"),),
    ),
    "newcomer-leaves-too-few-seats": Mutant(
        "a newcomer displaces seats without which no attempt opens",
        SEATS,
        (("_members[taskId].length + 1 < task.minMiners ||", "task.minMiners == 0 ||"),),
    ),
    "displaced-for-good-at-once": Mutant(
        "a displaced miner cannot take its seat back if no attempt opens",
        SEATS,
        (("if (!takesBack || !_isProvisional", "if (true || takesBack || !_isProvisional"),),
    ),
    "room-goes-to-a-second-account": Mutant(
        "a displaced miner takes nothing back from accounts that have displaced none",
        SEATS,
        (
            (
                "(task.displacerCount == 0 && seat.lastAttempt",
                "(task.minMiners == 0 && seat.lastAttempt",
            ),
        ),
    ),
    "any-new-seat-is-taken-back": Mutant(
        "a displaced miner ends seats of others while those that displaced miners have theirs",
        SEATS,
        (
            (
                "(task.displacerCount == 0 && seat.lastAttempt",
                "(task.minMiners != 0 && seat.lastAttempt",
            ),
        ),
    ),
    "fined-twice": Mutant(
        "a miss can be imposed again and again",
        SEATS,
        (
            (
                "if (ordinal <= misses.last && (misses.attempts >> age) & 1 != 0) return false;",
                "if (age > 300) return false;",
            ),
        ),
    ),
    "fines-by-one-vote": Mutant(
        "one validator can have any miner fined",
        SEATS,
        (("if (++_tallies[key] == quorum) {", "if (++_tallies[key] == 1) {"),),
    ),
    "approved-fines-voted-on": Mutant(
        "a vote on fines that a quorum approved is taken",
        SEATS,
        (
            (
                "if (vote.roots[stage] != 0 || vote.roots[0] == root) revert",
                "if (root == 0) revert",
            ),
        ),
    ),
    "fines-by-the-set-of-today": Mutant(
        "a change of the validator set changes who votes on fines",
        SEATS,
        (
            (
                "VALIDATORS.memberOfOperator(ended.judges, msg.sender)",
                "VALIDATORS.memberOfOperator(VALIDATORS.version(), msg.sender)",
            ),
        ),
    ),
    "leave-in-the-opening-block": Mutant(
        "a seat can end in the block that opens an attempt",
        SEATS,
        (
            (
                "if (progress.isOpen && progress.openBlock == block.number) revert",
                "if (progress.isOpen && progress.openBlock > block.number) revert",
            ),
        ),
    ),
    "leave-before-the-first-attempt": Mutant(
        "a newcomer can leave at once",
        SEATS,
        (
            (
                "if (seat.firstAttempt > progress.attemptCount && !_owesNothing",
                "if (seat.firstAttempt > progress.attemptCount + 9 && !_owesNothing",
            ),
        ),
    ),
    "bond-leaves-at-once": Mutant(
        "bonds come back before the last attempt can be fined no more",
        SEATS,
        (
            (
                "if (ended.endedBlock != 0 && block.number <= until)",
                "if (until == 1)",
            ),
        ),
    ),
    "displaced-before-its-term": Mutant(
        "a newcomer takes any seat of a full task",
        SEATS,
        (
            (
                "uint256(seat.firstAttempt) + seatAttempts <= progress.attemptCount + 1;",
                "seat.firstAttempt != 0;",
            ),
        ),
    ),
    "displaced-for-nothing": Mutant(
        "a newcomer ends seats whose units it does not need",
        SEATS,
        (("if (!isFull || seat.position == 0)", "if (seat.position == 0)"),),
    ),
    "displacement-exceeds-the-capacity": Mutant(
        "a newcomer that displaces a seat gets more units than are free",
        SEATS,
        (
            (
                "if (units > freeUnits) revert",
                "if (units > freeUnits && displaced.length == 0) revert",
            ),
        ),
    ),
    "seat-ends-in-its-attempt": Mutant(
        "a displaced miner cannot finish the attempt in progress",
        SEATS,
        (
            (
                "seat.lastAttempt = progress.attemptCount;\n",
                "seat.lastAttempt = _endedCount(progress);\n",
            ),
        ),
    ),
    "misses-of-all-tasks": Mutant(
        "a miss in one task counts in another one",
        SEATS,
        (
            ("delete _misses[taskId][msg.sender]", "delete _misses[0][msg.sender]"),
            ("misses = _misses[taskId][miner];", "misses = _misses[0][miner];"),
            ("missed = _misses[taskId][miner]", "missed = _misses[0][miner]"),
            ("misses = _misses[taskId][fine.miner]", "misses = _misses[0][fine.miner]"),
            ("|| _misses[taskId][msg.sender].last", "|| _misses[0][msg.sender].last"),
        ),
    ),
    "accusers-are-paid-in-pot": Mutant(
        "the bond of a task in another token is shared out in POT, which others deposited",
        SEATS,
        (("_creditAccusers(_tasks[taskId].token,", "_creditAccusers(address(POT),"),),
    ),
    "void-attempt-stays-reserved": Mutant(
        "the escrow of a void attempt is not released",
        LEDGER,
        (("        REGISTRY.settleReservation(taskId, payout, isEmpty);\n", ""),),
    ),
    "results-outlive-their-ballot": Mutant(
        "the results of a failed ballot count in the next one",
        LEDGER,
        (
            (
                (
                    "        _startVerdicts(training);\n"
                    "        _clearResults(training);\n    }\n\n    function _voidAttempt"
                ),
                "        _startVerdicts(training);\n    }\n\n    function _voidAttempt",
            ),
        ),
    ),
    "paid-escrow-is-refunded": Mutant(
        "what a round has paid can be refunded, too",
        REGISTRY,
        (
            (
                "account.refundable += account.reserved - payout;",
                "account.refundable += account.reserved;",
            ),
        ),
    ),
    "expires-in-an-attempt": Mutant(
        "a task can be closed while an attempt is open",
        REGISTRY,
        (("        if (_isRoundOpen(account)) return false;\n", ""),),
    ),
    "rent-is-free": Mutant(
        "a fee leaves out the rent",
        REGISTRY,
        (
            (
                "price.pendingRent + price.examination + price.rent + price.computation;",
                "price.pendingRent + price.examination + price.computation;",
            ),
        ),
    ),
    "promises-are-free": Mutant(
        "a fee leaves out the time that validators promise and that no attempt uses",
        REGISTRY,
        (("_larger(used, sharePpm * lifetimeSeconds)", "used"),),
    ),
    "pending-promises-are-free": Mutant(
        "a fee leaves out the time that is promised before a task is active",
        REGISTRY,
        (
            (
                "            + _divideUp(workerRate * sharePpm * _pendingSeconds, PPM);",
                "            ;",
            ),
        ),
    ),
    "rent-returns": Mutant(
        "the rent of an active task can be refunded",
        REGISTRY,
        (("        burnt += rent;\n        lease.heldRent = 0;\n", "        burnt += rent;\n"),),
    ),
    "answers-are-paid-twice": Mutant(
        "a validator can answer again, and is paid again",
        REGISTRY,
        (
            (
                (
                    "        if (_answers[taskId][validator] != 0) "
                    "revert TaskAlreadyAnswered(taskId, msg.sender);\n"
                ),
                "",
            ),
        ),
    ),
    "one-refusal-closes": Mutant(
        "one validator can have a task refused",
        REGISTRY,
        (("} else if (equalCount > (count - 1) / 3) {", "} else if (equalCount > 0) {"),),
    ),
    "slots-stay-taken": Mutant(
        "a closed task keeps its slot",
        REGISTRY,
        (("        --openTasks;\n", ""),),
    ),
    "attempts-are-free": Mutant(
        "more attempts open than were bought",
        REGISTRY,
        (("        --lease.attemptsLeft;\n", ""),),
    ),
    "attempt-outlives-its-task": Mutant(
        "an attempt opens that the lifetime does not cover",
        REGISTRY,
        (
            (
                " && lease.attemptsLeft != 0 && _coversAttempt(lease);",
                " && lease.attemptsLeft != 0;",
            ),
        ),
    ),
    "any-account-pays-out": Mutant(
        "any account can have escrow paid out",
        REGISTRY,
        (
            (
                (
                    "        if (msg.sender != SystemAddresses.REWARD_DISTRIBUTOR) "
                    "revert TaskNotDistributor(msg.sender);\n"
                ),
                "",
            ),
        ),
    ),
    "any-account-sets-the-root": Mutant(
        "any account can replace a task's rewards root",
        DISTRIBUTOR,
        (
            (
                (
                    "        if (msg.sender != SystemAddresses.GRADIENT_LEDGER) "
                    "revert DistributorNotLedger(msg.sender);\n"
                ),
                "",
            ),
        ),
    ),
    "claims-are-forgotten": Mutant(
        "an account can claim the same reward twice",
        DISTRIBUTOR,
        (("        pot.claimed[account] = cumulative;\n", ""),),
    ),
    "claims-of-all-tasks": Mutant(
        "what an account claimed of one task counts as claimed of another one",
        DISTRIBUTOR,
        (
            ("return _pots[taskId].claimed[account]", "return _pots[0].claimed[account]"),
            ("before = pot.claimed[account]", "before = _pots[0].claimed[account]"),
            ("pot.claimed[account] = cumulative", "_pots[0].claimed[account] = cumulative"),
        ),
    ),
}


def install_contract(mutant: Mutant) -> None:
    """Let every later world deploy the contract without the rule."""
    from tests.worlds import contracts

    name = Path(mutant.module).stem
    compiled = {**contracts.artifact(name), "bytecode": _compile(mutant, name)}
    original = contracts.artifact
    contracts.artifact = lambda each: compiled if each == name else original(each)


def _compile(mutant: Mutant, name: str) -> str:
    build = _load_build()
    build._install_packages()
    wanted = build._standard_input()
    source = wanted["sources"][mutant.module]
    source["content"] = mutate(mutant, source["content"])
    wanted["settings"]["outputSelection"] = {mutant.module: {name: ["evm.bytecode.object"]}}
    output = solcx.compile_standard(
        wanted,
        solc_binary=build._find_compiler(may_download=False),
        base_path=str(ROOT / "node_modules"),
    )
    return "0x" + output["contracts"][mutant.module][name]["evm"]["bytecode"]["object"]


def _load_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_contracts", ROOT / "contracts/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
