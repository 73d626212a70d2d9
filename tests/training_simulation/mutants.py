"""The rules of training with one of them removed: the simulation notices each missing rule.

A mutant is a change of source text at the import of the module, in a process of its own, or of a
contract's source, which is compiled anew.
`python -m tests.training_simulation --mutants` writes the table.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.simulation.mutants import Mutant, install_mutant
from tests.training_simulation.contract_mutants import CONTRACT_MUTANTS, install_contract

TABLE: Final = Path(__file__).with_name("mutants.txt")

ACCEPTANCE: Final = "chain.training.acceptance"
ASSIGNMENT: Final = "chain.training.assignment"
DECISIONS: Final = "chain.training.decisions"
HISTORY: Final = "chain.training.history"
RESULT_VOTE: Final = "chain.training.result_vote"
REWARDS: Final = "chain.training.rewards"
ROUNDS: Final = "chain.training.rounds"
SLASHING: Final = "chain.training.slashing"
SORTED_TREE: Final = "chain.training.sorted_tree"
ATTEMPT_RECORDS: Final = "chain.training.attempt_records"

RULE_MUTANTS: Final = {
    "rejected-by-f": Mutant(
        "f validators can have an honest gradient rejected",
        DECISIONS,
        (("    if against > sizes.max_faulty:", "    if against >= sizes.max_faulty:"),),
    ),
    "accepted-by-f": Mutant(
        "f validators can have a wrong gradient accepted",
        DECISIONS,
        (
            (
                "    if ok > sizes.max_faulty:\n        return Outcome",
                "    if ok >= sizes.max_faulty:\n        return Outcome",
            ),
        ),
    ),
    "rejection-counts-cheats-only": Mutant(
        "bad does not count against a gradient",
        DECISIONS,
        (
            (
                "against = count(Verdict.BAD) + count(Verdict.CHEAT)",
                "against = count(Verdict.CHEAT)",
            ),
        ),
    ),
    "guilty-by-f+1": Mutant(
        "f + 1 validators are enough to slash",
        DECISIONS,
        (
            (
                "    if cheat + missing >= sizes.quorum:",
                "    if cheat + missing > sizes.max_faulty:",
            ),
        ),
    ),
    "missing-is-no-guilt": Mutant(
        "a miner that withholds its gradient loses nothing",
        DECISIONS,
        (("    if cheat + missing >= sizes.quorum:", "    if cheat >= sizes.quorum:"),),
    ),
    "cheat-at-twice-the-tolerance": Mutant(
        "what machines cannot agree on is called a cheat",
        ACCEPTANCE,
        (("CHEAT_FACTOR: Final = 10", "CHEAT_FACTOR: Final = 2"),),
    ),
    "no-tolerance": Mutant(
        "a gradient beyond the tolerance is ok",
        ACCEPTANCE,
        (("    if distance > tolerance_ppb or", "    if"),),
    ),
    "late-verdicts-count": Mutant(
        "a verdict after the phase decides and is paid",
        HISTORY,
        (
            (
                "for record in attempt.verdicts if record.is_timely]",
                "for record in attempt.verdicts]",
            ),
        ),
    ),
    "ballot-keeps-verdicts": Mutant(
        "the verdicts of a failed ballot count in the next one",
        HISTORY,
        (("                verdicts=(),\n", ""),),
    ),
    "ballot-keeps-results": Mutant(
        "the results of a failed ballot count in the next one",
        HISTORY,
        (("                results=(),\n", ""),),
    ),
    "void-attempt-goes-on": Mutant(
        "a void attempt stays open",
        HISTORY,
        (
            (
                "    after = replace(history, attempt=None, lease=lease)\n",
                "    after = replace(history, lease=lease)\n",
            ),
        ),
    ),
    "share-of-all": Mutant(
        "silent validators have a share of the fee",
        HISTORY,
        (
            (
                "spec.reward.validator_fee // len(earners)",
                "spec.reward.validator_fee // len(validator_set.validators)",
            ),
        ),
    ),
    "pay-without-units": Mutant(
        "every accepted gradient is paid for one unit",
        HISTORY,
        (("pay = compute_pay(record.units, ", "pay = compute_pay(1, "),),
    ),
    "pay-to-validators": Mutant(
        "the fee goes to the consensus account",
        HISTORY,
        (("            operator_of[record.validator]\n", "            record.validator\n"),),
    ),
    "rewards-forget": Mutant(
        "a leaf holds the pay of the last round only",
        HISTORY,
        (("total = dict(earned)", "total: dict[Address, int] = {}"),),
    ),
    "missing-at-once": Mutant(
        "what has not come yet is called missing",
        ROUNDS,
        (
            (
                (
                    "        and now >="
                    " view.deadline.timestamp - spec.phases.verdict_seconds // 4\n"
                    "        and view.head_number >="
                    " view.deadline.block_number - view.late_blocks\n"
                ),
                "",
            ),
        ),
    ),
    "held-is-missing": Mutant(
        "what is held and not checked is called missing",
        ROUNDS,
        (
            (
                "return Verdict.UNCHECKED if index in held else Verdict.MISSING",
                "return Verdict.MISSING",
            ),
        ),
    ),
    "never-missing": Mutant(
        "a validator waits for a gradient that never comes",
        ROUNDS,
        (
            ("    if missing and own.held is None:\n        return duties\n", ""),
            ("    if not is_complete and not is_late(spec, view, now):", "    if not is_complete:"),
        ),
    ),
    "one-turn": Mutant(
        "only the first operator settles and advances",
        ROUNDS,
        (
            (
                "    return view.head_number >= view.since_block + TURN_BLOCKS * place",
                "    return place == 0",
            ),
        ),
    ),
    "settles-any-result": Mutant(
        "a result that one validator posted is settled",
        HISTORY,
        (("        if equal >= validator_set.quorum:", "        if equal:"),),
    ),
    "no-expiry": Mutant(
        "operators leave a task open that is over",
        ROUNDS,
        (("    if view.is_expired:\n", "    if False:\n"),),
    ),
    "old-state": Mutant(
        "a round starts from the state of an earlier one",
        ROUNDS,
        (
            ("and view.phase is not Phase.PAYMENT", "and not history.rounds_settled"),
            ("own.is_content_held and own.is_state_held", "own.is_content_held"),
            ("is_restoring = own.has_room and not own.is_state_held", "is_restoring = False"),
        ),
    ),
    "samples-overlap": Mutant(
        "all miners train on the same samples",
        ASSIGNMENT,
        (("for address, units in self.units if address < miner)", "for address, units in ())"),),
    ),
    "no-cycle-walking": Mutant(
        "the permutation leaves its range",
        ASSIGNMENT,
        (("    while image >= size:", "    if image >= 2 * size:"),),
    ),
    "wrong-sibling": Mutant(
        "a proof holds nodes on its path instead of their siblings",
        SORTED_TREE,
        (("nodes[position + 1 if position % 2 else position - 1]", "nodes[position]"),),
    ),
    "sorted-children": Mutant(
        "children are hashed in the order in which they come",
        SORTED_TREE,
        (("keccak256(min(one, other) + max(one, other))", "keccak256(one + other)"),),
    ),
    "no-units-in-the-result": Mutant(
        "a result says nothing of the accepted units",
        RESULT_VOTE,
        (
            (
                "outcome.accepted_units,\n        outcome.payout,\n        ResultKind.SETTLED",
                "1, 0, ResultKind.SETTLED",
            ),
        ),
    ),
    "no-failed-ballot": Mutant(
        "a gradient is left undecided although validators only lacked time",
        HISTORY,
        (("    if is_failed:", "    if False:"),),
    ),
    "never-void": Mutant(
        "an attempt without an accepted gradient is settled",
        HISTORY,
        (("    elif Outcome.ACCEPTED in outcomes:", "    elif True:"),),
    ),
    "fee-for-unchecked": Mutant(
        "a validator that checked nothing earns a share of the fee",
        HISTORY,
        (("if vote.count(Verdict.UNCHECKED) > max(", "if 0 > max("),),
    ),
    "fee-for-false-cheat": Mutant(
        "a validator that called an accepted gradient a cheat earns a share of the fee",
        HISTORY,
        (("verdict is Verdict.CHEAT and outcome", "verdict is None and outcome"),),
    ),
    "void-fines-none": Mutant(
        "miners found guilty in a void attempt are not fined",
        HISTORY,
        (
            (
                "    if attempt is None or spec is None:\n",
                "    if True:\n",
            ),
        ),
    ),
    "judges-of-today": Mutant(
        "a change of the validator set changes who judges a ballot in progress",
        HISTORY,
        (
            (
                "        validator_set=attempt.validator_set or validator_set,",
                "        validator_set=validator_set,",
            ),
        ),
    ),
    "nothing-to-slash": Mutant(
        "guilty miners are not fined",
        SLASHING,
        (("        if guilt is Guilt.NONE:\n", "        if True:\n"),),
    ),
    "fines-find-no-sender": Mutant(
        "approved fines are not imposed",
        SLASHING,
        (("        if head_number >= due:\n", "        if False:\n"),),
    ),
    "late-words-ignored": Mutant(
        "a validator that was shut out of the phase cannot convict",
        SLASHING,
        (("if own[index] is Verdict.UNCHECKED and verdict in", "if False and verdict in"),),
    ),
    "late-words-overwrite": Mutant(
        "a late word replaces any other",
        SLASHING,
        (
            ("if Verdict.UNCHECKED not in own:", "if False:"),
            ("if own[index] is Verdict.UNCHECKED and verdict in", "if verdict in"),
        ),
    ),
    "late-delivery-is-free": Mutant(
        "a gradient so late that its ballot failed is paid in full",
        ATTEMPT_RECORDS,
        (("            late.append(index)\n", "            pass\n"),),
    ),
    "blamed-for-others": Mutant(
        "a gradient that came late loses pay, although others made its ballot fail",
        ATTEMPT_RECORDS,
        (
            (
                "        is_cause = needs_another_ballot(",
                "        is_cause = bool(outcome) or bool(",
            ),
        ),
    ),
    "no-closing-vote": Mutant(
        "late words change no fine",
        SLASHING,
        (
            (
                "    if tree is None or head_number",
                "    if is_closing or not tree or head_number",
            ),
        ),
    ),
}


MUTANTS: Final = {**RULE_MUTANTS, **CONTRACT_MUTANTS}


def install(name: str) -> None:
    """Make later imports load the mutant, or later worlds deploy it."""
    if name in CONTRACT_MUTANTS:
        install_contract(CONTRACT_MUTANTS[name])
    else:
        install_mutant(RULE_MUTANTS[name])


def run_mutant(name: str, seeds: int, first: int = 0) -> str:
    """The row of a mutant: `mutant | first seed | family | violation`."""
    program = [sys.executable, "-m", "tests.training_simulation"]
    program += ["--mutant", name, "--first", str(first), "--seeds", str(seeds)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.stdout.strip()


def main(seeds: int) -> int:
    """Write the table; 1 if no seed notices a mutant."""
    rows = []
    for name in MUTANTS:
        rows.append(run_mutant(name, seeds))
        print(rows[-1], flush=True)
    TABLE.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return 1 if any("| none of" in row for row in rows) else 0
