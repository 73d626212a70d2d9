import json
from pathlib import Path

import pytest

from chain.primitives import Address
from chain.training.model_file import encode_model_file
from chain.training.task_spec_codec import encode_task_spec
from miner.devices import open_device
from miner.trainer import open_task
from node.client.task_file import load_task_toml
from tests.tools import check_model


def test_plain_torch_finds_the_accuracy_that_validators_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("examples/digits.toml").read_text()
    bundle = load_task_toml(text, Path(), Address(b"\x44" * 20))
    shard = bundle.blobs[bundle.spec.data.shards[0].content_id]
    theta = bundle.blobs[bundle.spec.initial_weights]
    model = tmp_path / "model.safetensors"
    model.write_bytes(encode_model_file(bundle.spec.model, theta))
    (tmp_path / "spec.json").write_bytes(encode_task_spec(bundle.spec))
    (tmp_path / "shard.npz").write_bytes(shard)
    given = ["--spec", f"{tmp_path}/spec.json", "--shard", f"{tmp_path}/shard.npz"]
    evaluation = open_task(bundle.spec, [shard], open_device("cpu")).evaluate(theta)
    for arguments in ([], given):
        monkeypatch.setattr("sys.argv", ["check_model.py", str(model), *arguments])
        assert check_model.main() == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["correct"], report["rows"]) == (evaluation.correct_count, 360)
        assert abs(report["loss_millinats"] - evaluation.loss_millinats) <= 1
