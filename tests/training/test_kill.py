"""Killed with -9 at random moments, a run ends with the same bits as one that was left alone."""

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.test_main import TINY
from tests.training.forked import Forked
from tests.training.test_train import lines
from uda_jax.export import export
from uda_jax.weights.arrays import read_arrays

# With two in test_distributed.py, twenty: three of them with the compiler's optimisations.
KILLS = {"adaptsegnet": 3} if os.environ.get("UDA_JAX_TEST_OPTIMIZED") else {"adaptsegnet": 12, "mic": 3}
STEPS = 18


@pytest.mark.slow
@pytest.mark.parametrize("method", KILLS)
def test_kills(data_dir: Path, tmp_path: Path, method: str) -> None:
    """Some of them fall into starting, saving or evaluating; the moments differ from run to run."""
    args = [*TINY, f"--config.data.dir={data_dir}", f"--config.train.steps={STEPS}", f"--config.method={method}"]
    args += ["--config.mic.threshold=0.1", "--config.mic.mask_block=8"]
    args += ["--config.train.checkpoint_every=3", "--config.train.eval_every=10"]

    def start(name: str) -> Forked:
        return Forked("uda_jax.main", *args, f"--workdir={tmp_path / name}")

    for name in ("compiled", "whole"):
        began = time.monotonic()
        assert start(name).ended() == 0
        whole = time.monotonic() - began
    moments = random.Random(os.urandom(8))
    kills = runs = 0
    while kills < KILLS[method]:  # of a run that came to its end before, another is begun
        process = start(f"killed{runs}")
        time.sleep(moments.uniform(0.1, 1) * whole)
        process.send(signal.SIGKILL)
        status = process.ended()
        assert status in (-signal.SIGKILL, 0), process.printed()
        kills, runs = kills + (status != 0), runs + (status == 0)
    assert start(f"killed{runs}").ended() == 0
    for name in ("compiled", *(f"killed{run}" for run in range(runs + 1))):
        assert_same_bits(tmp_path / "whole", tmp_path / name)


def assert_same_bits(one: Path, other: Path) -> None:
    """Weights, log and scores of two runs."""
    files = [read_arrays(export(run, out=run.with_suffix(".npz")))[0] for run in (one, other)]
    assert files[0].keys() == files[1].keys()
    for name, array in files[0].items():
        np.testing.assert_array_equal(files[1][name], array, err_msg=name)
    logs = [[{k: v for k, v in line.items() if k != "images_per_s"} for line in lines(run)] for run in (one, other)]
    assert logs[0] == logs[1]
    assert (one / "evaluation.json").read_text() == (other / "evaluation.json").read_text()
