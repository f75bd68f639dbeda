"""The seam holds a method that nothing else knows of: a mean teacher, written here and nowhere else.

Its teacher has batch norm of its own, run in training mode, so that the teacher's statistics change inside the loss
and leave through `carry`; the student's features pass a dropout; a second network, frozen as it was at the start, is
among the constants; the target is seen twice. It trains, is killed, resumes bit for bit, is scored by its teacher and
exports it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.conftest import SIZE, shrink
from tests.training.test_train import assert_equal
from uda_jax.config import check_config, default_config
from uda_jax.errors import UserError
from uda_jax.export import export
from uda_jax.methods import METHODS, Aux, Context, Method, Stream
from uda_jax.methods.losses import divergence
from uda_jax.methods.supervised import supervised_loss
from uda_jax.models.layers import resize_bilinear
from uda_jax.models.networks import Networks
from uda_jax.training import checkpoint
from uda_jax.training.loop import train
from uda_jax.weights.arrays import read_arrays

NAME = "mean_teacher_of_this_test"


def build(config: ConfigDict, networks: Networks) -> Method:
    c = config[NAME]

    def segmenter_loss(params: Any, context: Context) -> tuple[jax.Array, Aux]:
        batch, teacher = context.batch, context.memory
        source, stats = networks.segment(params, context.stats, batch["source_image"])
        loss, metrics = supervised_loss(source, batch["source_label"], 0.0)
        taught, teacher_stats = networks.segment(teacher["params"], teacher["batch_stats"], batch["target_weak"])
        student, stats = networks.segment(params, stats, batch["target_strong"])
        kept = jax.random.bernoulli(context.key, 0.9, student.features.shape)
        logits = resize_bilinear(networks.classify(params, student.features * kept / 0.9), SIZE)
        metrics["loss_consistency"] = divergence(logits, jax.lax.stop_gradient(taught.main), "l2")
        frozen = context.constants
        start, _ = networks.segment(frozen["params"], frozen["batch_stats"], batch["source_image"])
        metrics["loss_distance"] = jnp.square(source.features - jax.lax.stop_gradient(start.features)).mean()
        loss = loss + c.consistency * metrics["loss_consistency"] + c.distance * metrics["loss_distance"]
        return loss, Aux(stats, metrics, teacher_stats)

    def update_memory(context: Context, teacher_stats: Any, params: Any, stats: Any) -> Any:
        averaged = jax.tree.map(lambda t, s: c.alpha * t + (1 - c.alpha) * s, context.memory["params"], params)
        return {"params": averaged, "batch_stats": teacher_stats}

    return Method(
        streams={"source": Stream(labels=True), "target": Stream(views=("weak", "strong"))},
        segmenter_loss=segmenter_loss,
        init_memory=lambda params, stats, key: {"params": params, "batch_stats": stats},
        init_constants=lambda params, stats: {"params": params, "batch_stats": stats},
        update_memory=update_memory,
        evaluated=lambda state: state.memory,
    )


def register() -> None:
    settings = {"alpha": 0.9, "consistency": 1.0, "distance": 0.1}
    METHODS[NAME] = SimpleNamespace(default_config=lambda: ConfigDict(settings), build=build)


def config_of(data_dir: Path, steps: int = 6) -> ConfigDict:
    config = shrink(default_config(), str(data_dir))
    config.method = NAME
    config.model.update(affine="train", init="he", two_levels=False)
    config.data.target.update(jitter=0.4, flip=True)
    config.train.update(steps=steps, checkpoint_every=2)
    return config


@pytest.fixture(autouse=True)
def registered() -> Any:
    register()
    yield
    del METHODS[NAME]


def test_it_is_a_method_as_any_other(data_dir: Path) -> None:
    check_config(config_of(data_dir))
    config = default_config()
    config.method = "mean_teacher_of_this_tset"
    with pytest.raises(UserError, match=f"did you mean '{NAME}'"):
        check_config(config)


def test_it_trains_is_scored_by_its_teacher_and_exports_it(data_dir: Path, tmp_path: Path) -> None:
    config = config_of(data_dir)
    state = train(config, tmp_path / "run")
    student, teacher = state.params, state.memory["params"]
    assert not np.array_equal(student["head"]["kernel_0"], teacher["head"]["kernel_0"])
    statistics = [tree["backbone"]["bn1"]["mean"] for tree in (state.batch_stats, state.memory["batch_stats"])]
    assert np.abs(statistics[0]).max() > 0 and np.abs(statistics[1]).max() > 0  # both in training mode
    assert not np.array_equal(*statistics)
    arrays, metadata = read_arrays(export(tmp_path / "run", out=tmp_path / "w.npz"))
    assert metadata["method"] == NAME
    exported = [k for k in arrays if k.endswith("bn1.running_mean") and k.count(".") == 1]
    np.testing.assert_array_equal(arrays[exported[0]], statistics[1])
    # Scored again with the student in the teacher's place, the result is another one.
    of_teacher = json.loads((tmp_path / "run" / "evaluation.json").read_text())["confusion"]
    METHODS[NAME].build = lambda *args: build(*args)._replace(evaluated=Method._field_defaults["evaluated"])
    (tmp_path / "run" / "evaluation.json").unlink()
    train(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["confusion"] != of_teacher


@pytest.mark.slow
def test_the_teacher_is_the_average_of_its_students(data_dir: Path, tmp_path: Path) -> None:
    config = config_of(data_dir, steps=1)
    after_one = train(config, tmp_path)
    config.train.steps = 2
    after_two = train(config, tmp_path)
    expected = jax.tree.map(lambda t, s: 0.9 * t + (1 - 0.9) * s, after_one.memory["params"], after_two.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after_two.memory["params"], expected)


@pytest.mark.slow
def test_killed_and_resumed_it_is_the_same_to_the_bit(data_dir: Path, tmp_path: Path) -> None:
    steps = 12
    code = "import sys, tests.training.test_seam as t; data, steps, workdir = sys.argv[1:]; t.register(); "
    code += "t.train(t.config_of(data, int(steps)), t.Path(workdir))"
    command = [sys.executable, "-c", code, str(data_dir), str(steps), str(tmp_path / "killed")]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env=dict(os.environ))
    while len(checkpoint.steps(tmp_path / "killed")) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < checkpoint.steps(tmp_path / "killed")[-1] < steps
    whole = train(config_of(data_dir, steps), tmp_path / "whole")
    assert_equal(train(config_of(data_dir, steps), tmp_path / "killed"), whole)


def test_other_constants_on_resume_are_refused(data_dir: Path, tmp_path: Path) -> None:
    """They are not in checkpoints; a pretrained file that has been replaced would change them in silence."""
    config = config_of(data_dir, steps=2)
    train(config, tmp_path / "run")
    METHODS[NAME].build = lambda *args: build(*args)._replace(
        init_constants=lambda params, stats: {"params": params, "batch_stats": jax.tree.map(jnp.ones_like, stats)}
    )
    config.train.steps = 4
    with pytest.raises(UserError, match="frozen networks of its method come out unlike"):
        train(config, tmp_path / "run")
