"""The receipt of a miner that took part in a round and did not commit."""

from pathlib import Path

from chain.contracts import gradient_ledger
from chain.crypto import keccak256
from chain.training.acceptance import Verdict, encode_verdicts
from tests.worlds.rpc import rpc_harness
from tests.worlds.training_chain import ANN, BEN, OPERATORS, POT, SPEC, TASK, TrainingChain


def test_receipt_of_an_absent_miner_shows_its_fine(tmp_path: Path) -> None:
    chain = TrainingChain(tmp_path / "database")
    chain.submit()
    chain.activate()
    chain.register()
    commit = gradient_ledger.commit_gradient(TASK, 0, 0, 1, keccak256(b"gradient"))
    chain.finalize(chain.call(ANN, commit))
    for _ in range(SPEC.phases.commit_seconds // 2 + 2):
        chain.finalize()
    chain.finalize(chain.call(OPERATORS[0], gradient_ledger.advance_round(TASK)))
    verdicts = gradient_ledger.post_verdict(TASK, 0, 0, 0, encode_verdicts([Verdict.OK]))
    chain.finalize(*(chain.call(each, verdicts) for each in OPERATORS))
    chain.finalize()
    chain.agree()
    chain.settle()
    with rpc_harness(tmp_path, chain.local) as rpc:
        ann = rpc.result("pot_getReceipt", TASK, 0, ANN.address)
        ben = rpc.result("pot_getReceipt", TASK, 0, BEN.address)
    assert (ann["accepted"], ann["fine"], ann["fineAmount"]) == (True, None, "0")
    assert (ben["accepted"], ben["fine"]) == (False, "absence")
    assert ben["fineAmount"] == str(2 * SPEC.reward.unit_price // 8)
    assert (ben["fineState"], ben["fineSeatBond"]) == ("due", str(POT // 8))
