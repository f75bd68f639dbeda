"""Two processes of two devices each on one machine train one model, as two hosts of a pod would."""

import json
import os
import random
import shutil
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.test_main import TINY, VGG
from tests.training.forked import Forked
from tests.training.test_train import lines
from uda_jax.errors import STOPPED
from uda_jax.export import export
from uda_jax.training import checkpoint
from uda_jax.weights.arrays import read_arrays

SMALL = [*TINY, "--config.train.batch_size=4", "--config.eval.batch_size=4"]
FLOAT64 = ["--config.model.dtype=float64", "--config.model.param_dtype=float64"]
EACH = ((), ())  # arguments of one process alone


def start(
    workdir: Path, *args: str, each: Sequence[Sequence[str]] = EACH, module: str = "uda_jax.main", x64: bool = False
) -> list[Forked]:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    met = (f"--coordinator=localhost:{port}", "--processes=2", f"--workdir={workdir}", *args)
    return [Forked(module, *met, f"--process={i}", *own, x64=x64, XLA_FLAGS=flags) for i, own in enumerate(each)]


def ended(workers: list[Forked], status: int, within: float = 300) -> list[str]:
    found = [worker.ended(within) for worker in workers]
    outputs = [worker.printed() for worker in workers]
    assert found == [status] * len(workers), "\n".join(outputs)
    return outputs


def alone(workdir: Path, *args: str, x64: bool = False) -> None:
    ended([Forked("uda_jax.main", f"--workdir={workdir}", *args, x64=x64)], 0)


def steps_taken(workers: list[Forked], workdir: Path, steps: int) -> None:
    """Waits until that many steps are in the log."""
    while len(lines(workdir) if (workdir / "metrics.jsonl").exists() else []) < steps:
        assert all(worker.poll() is None for worker in workers), [worker.printed() for worker in workers]
        time.sleep(0.1)


def assert_same(one: Path, other: Path, tolerance: float, scores: bool = True) -> None:
    """What two runs logged and ended with, discriminators included.

    Args:
      scores: whether they were scored at the same steps.
    """
    files = [read_arrays(export(workdir, out=workdir.with_suffix(".npz")))[0] for workdir in (one, other)]
    assert files[0].keys() == files[1].keys()
    for name, array in files[0].items():
        np.testing.assert_allclose(files[1][name], array, rtol=tolerance, atol=tolerance, err_msg=name)
    logs = [
        [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines(run) if scores or "loss" in line]
        for run in (one, other)
    ]
    assert len(logs[0]) == len(logs[1]) > 0
    for mine, theirs in zip(*logs, strict=True):
        assert mine.keys() == theirs.keys()
        np.testing.assert_allclose([theirs[k] for k in mine], list(mine.values()), rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_two_processes_train_what_one_device_does(data_dir: Path, tmp_path: Path) -> None:
    """In float64: AdaptSegNet, batch norm over the whole batch; then source-only, frozen, from its weights."""
    args = [*SMALL, *FLOAT64, f"--config.data.dir={data_dir}", "--config.train.steps=3"]
    pretrained = f"--config.model.pretrained={tmp_path}/batch_one.npz"
    for norm, *own in (("batch",), ("frozen", "--config.method=source_only", pretrained)):
        own = [*args, f"--config.model.norm={norm}", *own]
        alone(tmp_path / f"{norm}_one", *own, x64=True)
        ended(start(tmp_path / f"{norm}_two", *own, x64=True), 0)
        assert_same(tmp_path / f"{norm}_one", tmp_path / f"{norm}_two", 1e-10)


@pytest.mark.slow
def test_two_processes_stop_are_preempted_and_resume_one_model(data_dir: Path, tmp_path: Path) -> None:
    args = [*SMALL, f"--config.data.dir={data_dir}"]
    ended(start(tmp_path / "run", *args), 0)
    ended(start(tmp_path / "run", *args, "--config.train.steps=3"), 0)
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (evaluation["step"], evaluation["images"]) == (3, 5)  # each image once, over both processes
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 2, 3, 3]  # process 0 alone; scores at 2 and 3
    # Where one is preempted they agree on the step, save it, and both ask by their exit status to be started again.
    workers = start(tmp_path / "run", *args, "--config.train.steps=2500")
    steps_taken(workers, tmp_path / "run", 6)
    workers[1].send(signal.SIGTERM)
    ended(workers, STOPPED)
    *before, saved = checkpoint.steps(tmp_path / "run")
    assert before == [2, 3] and 3 < saved < 2500


@pytest.mark.slow
def test_two_kills_of_one_of_two_end_the_other_and_both_resume_to_the_bit(data_dir: Path, tmp_path: Path) -> None:
    """At random moments: some fall into meeting, compiling, saving or evaluating."""
    args = [*SMALL, f"--config.data.dir={data_dir}", "--config.train.steps=16"]
    args += ["--config.train.checkpoint_every=3", "--config.train.eval_every=10"]
    began = time.monotonic()
    ended(start(tmp_path / "whole", *args), 0)
    whole = time.monotonic() - began
    moments = random.Random(os.urandom(8))
    for number in range(2):
        workers = start(tmp_path / "killed", *args)
        time.sleep(moments.uniform(0.1, 0.6) * whole)  # which compiled, too
        victim, other = (workers[(number + i) % 2] for i in range(2))
        victim.send(signal.SIGKILL)
        assert other.ended(within=150) != STOPPED, other.printed()
    ended(start(tmp_path / "killed", *args), 0)
    assert_same(tmp_path / "whole", tmp_path / "killed", 0)


@pytest.mark.slow
def test_what_one_process_cannot_read_ends_both_with_its_message(data_dir: Path, tmp_path: Path) -> None:
    args = [*SMALL, "--config.train.steps=100"]
    each = ((f"--config.data.dir={data_dir}",), ("--config.data.dir=/nowhere",))
    for output in ended(start(tmp_path / "run", *args, each=each), 2, within=120):
        assert "python -m data_prep.build --dataset=streets --out=/nowhere" in output
        assert "Traceback" not in output
    assert not (tmp_path / "run").exists()

    damaged = tmp_path / "data"
    shutil.copytree(data_dir, damaged)
    for file in damaged.glob("streets/rendered/*/*-train.tfrecord*"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    each = ((f"--config.data.dir={data_dir}",), (f"--config.data.dir={damaged}",))
    outputs = ended(start(tmp_path / "run", *args, each=each), 2, within=120)
    assert "process 1: " in outputs[0]
    for output in outputs:
        assert "corrupted record" in output and "Traceback" not in output


@pytest.mark.slow
def test_processes_that_were_started_differently_say_what_differs(data_dir: Path, tmp_path: Path) -> None:
    args = [*SMALL, f"--config.data.dir={data_dir}"]
    for output in ended(start(tmp_path / "run", *args, each=((), ("--config.seed=3",))), 2, within=120):
        assert "config.seed: 0 in process 0, 3 there" in output and "Traceback" not in output
    assert not (tmp_path / "run").exists()
    elsewhere = f"--workdir={tmp_path}/elsewhere"
    for output in ended(start(tmp_path / "run", *args, each=((), (elsewhere,))), 2, within=120):
        assert "process 1, on" in output and "does not see what process 0 wrote there" in output
        assert "Traceback" not in output


@pytest.mark.slow
def test_comparison_and_ablation_run_on_two_processes(data_dir: Path, tmp_path: Path) -> None:
    args = [*SMALL, f"--config.data.dir={data_dir}"]
    outputs = ended(start(tmp_path / "runs", *args, "--config.method=source_only", module="uda_jax.compare"), 0)
    assert "report: " in outputs[0] and "report: " not in outputs[1]
    assert (tmp_path / "runs" / "report.html").exists()
    args = [
        "--config=configs/streets_apoda.py",
        *args[1:],
        *VGG,
        "--config.apoda.warmup_steps=1",
        "--variants=all",
    ]
    outputs = ended(start(tmp_path / "ablation", *args, module="benchmarks.ablation"), 0)
    assert "| all | 1 |" in outputs[0] and "| all | 1 |" not in outputs[1]
    steps = [line["step"] for line in lines(tmp_path / "ablation" / "all" / "seed0") if "loss" in line]
    assert steps == [1, 2]  # the first of them is the warm-up's
