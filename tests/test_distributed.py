"""Two processes on one machine train one model, as two hosts of a pod would."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_main import ROOT, TINY

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


@pytest.mark.slow
def test_two_processes_train_stop_and_resume_one_model(data_dir: Path, tmp_path: Path) -> None:
    def run(*more: str) -> None:
        with socket.socket() as s:
            s.bind(("localhost", 0))
            port = str(s.getsockname()[1])
        args = [*TINY, f"--config.data.dir={data_dir}", f"--workdir={tmp_path}/run", *more]
        workers = [
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
        for worker in workers:
            output, _ = worker.communicate(timeout=300)
            assert worker.returncode == 0, output

    run()
    run("--config.train.steps=3")
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (evaluation["step"], evaluation["images"]) == (3, 5)  # each image once, over both processes
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 2, 3, 3]  # process 0 alone writes; evaluations at 2 and 3
