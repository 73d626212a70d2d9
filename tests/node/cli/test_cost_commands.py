"""What commands say of fines, absences and void attempts, on the real contracts."""

from pathlib import Path

from chain.contracts import gradient_ledger
from node.cli.task_round import count_costs
from tests.worlds.command_line import Pot
from tests.worlds.rpc import rpc_harness, served
from tests.worlds.training_chain import OPERATORS, SPEC, TASK, TrainingChain

FINE = """\
  miner 0x229c784b: fraud, at most 2.5 POT and 1 POT of its seat bond, because
    validators found its gradient to be wrong, in ballot 1; validators have to
    vote on it
  0 votes of 3; no vote of 0x20202020, 0x21212121, 0x22222222, 0x23232323
"""


def play(directory: Path, *steps: str) -> TrainingChain:
    chain = TrainingChain(directory / "database")
    for step in ("submit", "activate", "register", *steps):
        getattr(chain, step)()
    return chain


def let_attempt_pass(chain: TrainingChain) -> None:
    for _ in range(SPEC.phases.commit_seconds // 2 + 2):
        chain.finalize()
    chain.finalize(chain.call(OPERATORS[0], gradient_ledger.advance_round(TASK)))
    chain.finalize()


def test_fine_is_told_in_words_wherever_it_is_looked_for(pot: Pot, tmp_path: Path) -> None:
    chain = play(tmp_path, "commit", "judge", "agree", "settle")
    with rpc_harness(tmp_path, chain.local) as rpc, served(rpc) as url:
        task = pot("task", "show", TASK, "--rpc", url)
        round_ = pot("task", "round", TASK, 1, "--rpc", url)
        status = pot("validator", "status", "--rpc", url)
        assert "there is no round 0: the first" in pot.fails("task", "round", TASK, 0, "--rpc", url)
        assert "has not come to round 3" in pot.fails("task", "round", TASK, 3, "--rpc", url)
    heading = "fines of round 1, attempt 1 of the task, until block 202:\n"
    assert task.endswith(heading + FINE)
    assert round_ == (
        "round  1/10  block  10  accepted 1/2  loss 0.700  accuracy 75.00 %  1.1 POT  14 s\n"
        "  with 1 fine, told below\n"
        "  miner 0x63467b02: 1 unit, accepted and paid\n"
        "  miner 0x229c784b: 2 units, not accepted\n"
        f"attempt 1 of the task:\n{FINE}"
    )
    # Within a list of tasks all lines are indented by two columns more.
    said = status.partition("task 1:\n")[2].split()
    assert said == (heading + FINE).split()
    assert max(map(len, status.partition("task 1:\n")[2].splitlines())) <= 80


def test_absences_and_void_attempts_are_told_in_words(pot: Pot, tmp_path: Path) -> None:
    chain = play(tmp_path)
    let_attempt_pass(chain)
    with rpc_harness(tmp_path, chain.local) as rpc, served(rpc) as url:
        round_ = pot("task", "round", TASK, 1, "--rpc", url)
        watched = count_costs(rpc.result("pot_getRound", TASK, 0))
    assert round_ == (
        "round 1/10 is not settled yet\n"
        "  with 2 absences, 1 void attempt, told below\n"
        "attempt 1 of the task was void: no miner committed\n"
        "  miner 0x229c784b: absent, which will cost 0.25 POT of its bond and at least\n"
        "    0.125 POT of its seat bond\n"
        "  miner 0x63467b02: absent, which will cost 0.125 POT of its bond and at least\n"
        "    0.125 POT of its seat bond\n"
    )
    assert watched == "2 absences, 1 void attempt"
