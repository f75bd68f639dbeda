"""Two processes on one machine train one model, as two hosts of a pod would."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.test_main import ROOT, TINY
from uda_jax.errors import STOPPED
from uda_jax.training import checkpoint

WORKER = """
import sys, jax
port, index, *argv = sys.argv[1:]
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(index))
assert jax.device_count() == 2 * jax.local_device_count()
sys.argv = ["uda_jax.main", *argv]
from uda_jax.cli import run
from uda_jax.main import main
run(main)
"""


def start(data_dir: Path, workdir: Path, *more: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = str(s.getsockname()[1])
    args = [*TINY, f"--config.data.dir={data_dir}", f"--workdir={workdir}", *more]
    return [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, port, str(i), *args],
            cwd=ROOT,
            env=dict(os.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(2)
    ]


def ended(workers: list[subprocess.Popen[str]], status: int) -> None:
    for worker in workers:
        output, _ = worker.communicate(timeout=300)
        assert worker.returncode == status, output


@pytest.mark.slow
def test_two_processes_train_stop_and_resume_one_model(data_dir: Path, tmp_path: Path) -> None:
    ended(start(data_dir, tmp_path / "run"), 0)
    ended(start(data_dir, tmp_path / "run", "--config.train.steps=3"), 0)
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (evaluation["step"], evaluation["images"]) == (3, 5)  # each image once, over both processes
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 2, 3, 3]  # process 0 alone writes; evaluations at 2 and 3


@pytest.mark.slow
def test_both_stop_where_one_is_preempted(data_dir: Path, tmp_path: Path) -> None:
    """They agree on the step, save it, and both have the exit status that asks to be started again."""
    workers = start(data_dir, tmp_path / "run", "--config.train.steps=2500")
    log = tmp_path / "run" / "metrics.jsonl"
    while not (log.exists() and log.read_text()):
        assert all(worker.poll() is None for worker in workers)
        time.sleep(0.1)
    workers[1].send_signal(signal.SIGTERM)
    ended(workers, STOPPED)
    [saved] = checkpoint.steps(tmp_path / "run")
    assert 0 < saved < 2500
