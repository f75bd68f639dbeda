"""Killed with -9 at random moments, a run ends with the same bits as one that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.test_main import ROOT, TINY
from tests.training.test_train import lines
from uda_jax.export import export
from uda_jax.weights.arrays import read_arrays

# With two in test_distributed.py, twenty: five of them with the compiler's optimisations.
KILLS = {"adaptsegnet": 4, "mic": 1} if os.environ.get("UDA_JAX_TEST_OPTIMIZED") else {"adaptsegnet": 10, "mic": 3}
STEPS = 36


@pytest.mark.slow
@pytest.mark.parametrize("method", KILLS)
def test_kills(data_dir: Path, tmp_path: Path, method: str) -> None:
    """Some of them fall into starting, compiling, saving or evaluating; the moments differ from run to run."""
    args = [*TINY, f"--config.data.dir={data_dir}", f"--config.train.steps={STEPS}", f"--config.method={method}"]
    args += ["--config.mic.threshold=0.1", "--config.mic.mask_block=8"]
    args += ["--config.train.checkpoint_every=3", "--config.train.eval_every=10"]

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "uda_jax.main", *args, f"--workdir={tmp_path / name}"]
        return subprocess.Popen(command, cwd=ROOT, env=dict(os.environ), stderr=subprocess.DEVNULL)

    began = time.monotonic()
    assert start("whole").wait() == 0
    whole = time.monotonic() - began
    moments = random.Random(os.urandom(8))
    for _ in range(KILLS[method]):
        process = start("killed")
        time.sleep(moments.uniform(0.2, 0.9) * whole)
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (-signal.SIGKILL, 0)  # it may have come to its end before
    assert start("killed").wait() == 0

    files = [read_arrays(export(tmp_path / name, out=tmp_path / f"{name}.npz"))[0] for name in ("whole", "killed")]
    assert files[0].keys() == files[1].keys()
    for name, array in files[0].items():
        np.testing.assert_array_equal(files[1][name], array, err_msg=name)
    logs = [
        [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines(tmp_path / name)]
        for name in ("whole", "killed")
    ]
    assert logs[0] == logs[1]
    scores = [(tmp_path / name / "evaluation.json").read_text() for name in ("whole", "killed")]
    assert scores[0] == scores[1]
