"""Whose a workdir is, when a run is done, and what is made up for when it goes on."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.training.test_train import assert_equal, lines
from uda_jax import runs
from uda_jax.errors import Stopped, UserError
from uda_jax.export import export
from uda_jax.files import alone, to_json, write_whole
from uda_jax.paths import to_path
from uda_jax.training import checkpoint
from uda_jax.training.loop import train, workdir_of_our_own


@pytest.fixture
def config(least: ConfigDict) -> ConfigDict:
    """What a workdir is does not depend on the method."""
    return least


def contents(directory: Path) -> dict[str, int]:
    """When each file was last written."""
    return {str(path): path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_run_that_could_not_start_leaves_its_workdir_free(config: ConfigDict, tmp_path: Path) -> None:
    """What the error advises can be followed in the same workdir."""
    config.method, config.discriminator.width, config.train.steps = "adaptsegnet", 4, 1
    config.data.target.size = (16, 32)  # the discriminators fit the source, which they are made for, not the target
    with pytest.raises(UserError, match=r"config\.discriminator\.layers=3"):
        train(config, tmp_path / "run")
    config.discriminator.layers = 3
    train(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["discriminator"]["layers"] == 3


def test_the_first_checkpoint_claims_a_workdir_for_good(config: ConfigDict, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{half of a")  # of a run that was killed before its first checkpoint
    config.train.steps = 1
    train(config, tmp_path)
    written = (tmp_path / "config.json").stat().st_mtime_ns
    config.train.steps = 2
    train(config, tmp_path)
    assert (tmp_path / "config.json").stat().st_mtime_ns == written
    assert checkpoint.read_about(tmp_path, 2)["classes"][:2] == ["road", "sidewalk"]
    for damaged in ("{half of a", "[1, 2]", "null"):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(UserError, match=r"config\.json is not the config of a run"):
            train(config, tmp_path)


def test_a_finished_run_is_left_as_it_is(config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config.train.steps = 2
    state = train(config, tmp_path)
    before = contents(tmp_path)
    capsys.readouterr()
    config.eval.limit = 3  # of no matter to what was trained
    assert_equal(train(config, tmp_path), state)
    assert contents(tmp_path) == before
    said = capsys.readouterr().out
    assert "is done" in said and "5 images" in said


def test_scores_are_of_the_run_and_the_step_that_is_there(config: ConfigDict, tmp_path: Path) -> None:
    """Wherever a run was killed, and whatever was removed since."""
    train(config, tmp_path)
    written = contents(tmp_path)
    assert written[str(tmp_path / "run.json")] <= written[str(tmp_path / "evaluation.json")]  # which says "done"
    assert runs.finished(tmp_path, 2) is not None
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    assert runs.finished(tmp_path, 2) is None  # the score is that of step 4
    shutil.rmtree(tmp_path / "checkpoints")
    config.seed = 1
    runs.claim(tmp_path, config)  # as the next run does
    assert not (tmp_path / "evaluation.json").exists() and not (tmp_path / "run.json").exists()


@pytest.mark.slow
def test_a_run_of_no_steps_scores_and_keeps_what_it_starts_from(config: ConfigDict, tmp_path: Path) -> None:
    config.train.steps = 0
    state = train(config, tmp_path / "run")
    assert checkpoint.steps(tmp_path / "run") == [0]
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["images"] == 5
    config.train.steps = 2
    whole = train(config, tmp_path / "whole")
    assert_equal(train(config, tmp_path / "run"), whole)
    assert int(state.step) == 0


def test_half_an_evaluation_is_made_again(config: ConfigDict, tmp_path: Path) -> None:
    config.train.steps = 2
    train(config, tmp_path)
    path = tmp_path / "evaluation.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert runs.finished(tmp_path, 2) is None
    times = json.loads((tmp_path / "run.json").read_text())
    train(config, tmp_path)
    assert path.read_text() == whole
    again = json.loads((tmp_path / "run.json").read_text())
    assert 0 < again["train_s"] <= times["train_s"]  # as far as the checkpoint knows of the process before
    assert again["wall_s"] > again["train_s"]


@pytest.mark.slow
def test_resume_without_the_pretrained_file_and_after_data_moved(
    config: ConfigDict, data_dir: Path, tmp_path: Path
) -> None:
    config.train.steps = 1
    train(config, tmp_path / "first")
    weights = export(tmp_path / "first", out=tmp_path / "w.npz")
    (tmp_path / "data").symlink_to(data_dir)
    config.model.pretrained, config.data.dir = str(weights), str(tmp_path / "data")
    config.train.steps = 4
    whole = train(config, tmp_path / "whole")
    config.train.steps = 2
    train(config, tmp_path / "run")
    weights.unlink()
    (tmp_path / "data").unlink()
    config.data.dir = str(data_dir)
    config.eval.update(batch_size=1, limit=2)
    config.data.eval.label_size = (64, 128)
    config.train.steps = 4
    assert_equal(train(config, tmp_path / "run"), whole)


def test_other_data_under_the_same_name_are_refused(config: ConfigDict, tmp_path: Path) -> None:
    config.train.steps = 1
    train(config, tmp_path)
    found = runs.describe(config)
    assert found["records"] == {"source": 8}
    found["records"]["source"] = 9
    with pytest.raises(
        UserError, match=r"trained on 8 images of streets/rendered \(config.data.source\); now .* has 9"
    ):
        runs.check_owner(tmp_path, config, found)


def test_two_runs_in_one_workdir(config: ConfigDict, tmp_path: Path) -> None:
    with (
        alone(tmp_path / "run", "training"),
        pytest.raises(UserError, match=f"another process is training in {tmp_path}/run"),
    ):
        train(config, tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())  # nothing was written there
    train(config, tmp_path / "run")


@pytest.mark.slow
def test_a_workdir_that_stays_empty_goes_and_anything_in_it_stays(tmp_path: Path) -> None:
    """Backups of editors as well, which epath does not see."""
    with workdir_of_our_own(to_path(tmp_path / "new")):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    (tmp_path / "notes.txt~").write_text("mine")
    with workdir_of_our_own(to_path(tmp_path)):
        pass
    assert (tmp_path / "notes.txt~").read_text() == "mine"


@pytest.mark.slow
def test_an_evaluation_that_was_stopped_is_made_up_for(config: ConfigDict, tmp_path: Path) -> None:
    config.train.update(steps=4, eval_every=2, checkpoint_every=2)
    whole = train(config, tmp_path / "whole")

    def stop_when_due() -> None:
        log = tmp_path / "parts" / "metrics.jsonl"
        while not (log.exists() and '"step": 2' in log.read_text()):
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop_when_due)
    thread.start()
    with pytest.raises(Stopped, match="stopped at step 2"):
        train(config, tmp_path / "parts")
    thread.join()
    assert [x["step"] for x in lines(tmp_path / "parts") if "eval/miou" in x] == []
    assert checkpoint.steps(tmp_path / "parts") == [2]  # saved first
    assert_equal(train(config, tmp_path / "parts"), whole)
    scored = [
        [(x["step"], x["eval/miou"]) for x in lines(tmp_path / d) if "eval/miou" in x] for d in ("parts", "whole")
    ]
    assert scored[0] == scored[1]
    assert [step for step, _ in scored[0]] == [2, 4]


def test_json_has_no_nan(tmp_path: Path) -> None:
    value = {"a": float("nan"), "b": [1.5, float("inf")], "c": (2, "x"), "d": {"e": np.float64("nan")}}
    assert json.loads(to_json(value)) == {"a": None, "b": [1.5, None], "c": [2, "x"], "d": {"e": None}}


def test_what_is_written_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_whole(path, "old")
    (tmp_path / ".x.json.part").mkdir()  # nothing can be written there
    with pytest.raises(IsADirectoryError):
        write_whole(path, "new")
    assert path.read_text() == "old"
