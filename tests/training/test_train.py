import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict

from uda_jax.errors import Stopped, UserError
from uda_jax.training import loop as training
from uda_jax.training.loop import train


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_equal(a: object, b: object) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


def test_a_run_leaves_what_the_report_reads(config: ConfigDict, tmp_path: Path) -> None:
    config.train.eval_every = 2
    state = train(config, tmp_path)
    assert int(state.step) == 4
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    assert (evaluation["images"], evaluation["step"], len(evaluation["iou"])) == (5, 4, 19)
    assert 0 <= evaluation["miou"] <= 1
    labelled = np.array(evaluation["confusion"]).sum()
    assert 0 < labelled <= 5 * 32 * 64  # each of the 5 images once, without the padding of the last batch
    log = lines(tmp_path)
    assert [x["step"] for x in log if "loss" in x] == [1, 2, 3, 4]
    assert [x["step"] for x in log if "eval/miou" in x] == [2, 4]
    assert len(list((tmp_path / "samples").glob("*_prediction.png"))) == 1
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert json.loads((tmp_path / "run.json").read_text())["versions"]["jax"] == jax.__version__
    # No memory is no part of a checkpoint, as in those from before methods had any, which can be resumed.
    stored = ocp.PyTreeCheckpointHandler().metadata(tmp_path / "checkpoints" / "4" / "default").tree
    assert {"params", "optimizer", "step"} < stored.keys() and "memory" not in stored


def test_resume_is_exact_to_the_bit(config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by SIGTERM in the middle and called again, a run ends in the same state as one that never stopped."""
    config.data.source.flip = True
    config.data.source.scale = (0.7, 1.5)
    whole = train(config, tmp_path / "whole")

    real_flush, calls = training.flush, []

    def flush_then_signal(*args: object, **kwargs: object) -> None:
        real_flush(*args, **kwargs)
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training, "flush", flush_then_signal)
    with pytest.raises(Stopped, match="stopped at step 1; the same command goes on"):
        train(config, tmp_path / "parts")
    assert training.checkpoint.steps(tmp_path / "parts") == [1]
    assert not (tmp_path / "parts" / "evaluation.json").exists()
    monkeypatch.undo()
    resumed = train(config, tmp_path / "parts")
    assert_equal(resumed, whole)
    assert [x["step"] for x in lines(tmp_path / "parts")] == [x["step"] for x in lines(tmp_path / "whole")]
    without_time = [
        [{k: v for k, v in x.items() if k != "images_per_s"} for x in lines(tmp_path / d)] for d in ("parts", "whole")
    ]
    assert without_time[0] == without_time[1]


@pytest.mark.slow
def test_resume_from_a_checkpoint_that_was_written_while_training_went_on(least: ConfigDict, tmp_path: Path) -> None:
    """Its arrays are copied before the next step may reuse their memory, which is donated."""
    least.train.update(steps=7, checkpoint_every=2)
    whole = train(least, tmp_path)
    for step in (6, 7):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    assert training.checkpoint.steps(tmp_path) == [4]
    assert_equal(train(least, tmp_path), whole)


@pytest.mark.slow
def test_a_longer_run_goes_on_from_a_finished_one(least: ConfigDict, tmp_path: Path) -> None:
    whole = train(least, tmp_path / "whole")
    least.train.steps = 2
    train(least, tmp_path / "parts")
    least.train.steps = 4
    assert_equal(train(least, tmp_path / "parts"), whole)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(least: ConfigDict, tmp_path: Path) -> None:
    least.train.steps = 2
    good = train(least, tmp_path)
    least.train.update(steps=40, checkpoint_every=100)
    path = tmp_path / "config.json"  # the same run, told that its rate was always this high
    least.optimizer.learning_rate = 1e30
    stored = json.loads(path.read_text())
    stored["optimizer"]["learning_rate"] = 1e30
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"not finite at step \d+: .*loss_seg_main"):
        train(least, tmp_path)
    kept = training.checkpoint.make_manager(tmp_path)
    assert_equal(training.checkpoint.restore(kept, good), good)


def test_data_that_is_not_there_is_said_before_anything_is_written(config: ConfigDict, tmp_path: Path) -> None:
    config.data.dir = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"python -m data_prep.build --dataset=streets"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_runs_workdir_is_refused(least: ConfigDict, tmp_path: Path) -> None:
    least.train.steps = 1
    train(least, tmp_path)
    least.seed = 1
    with pytest.raises(UserError, match="seed: 0 there, 1 here"):
        train(least, tmp_path)


def test_a_checkpoint_of_other_shapes_is_named(least: ConfigDict, tmp_path: Path) -> None:
    least.train.steps = 1
    train(least, tmp_path)
    least.model.width = 8
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="cannot be restored"):
        train(least, tmp_path)


def test_weights_that_do_not_fit_do_not_claim_the_workdir(config: ConfigDict, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", **{"conv1.weight": np.zeros((3, 3, 1, 1), np.float32)})
    config.model.pretrained = str(tmp_path / "other.npz")
    with pytest.raises(UserError, match="does not fit"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
