"""A run can be stopped wherever it is, and ends at once when it is asked twice."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from tests.test_main import ROOT, TINY
from uda_jax.errors import STOPPED, Stopped
from uda_jax.training.loop import IN_FLIGHT, wait
from uda_jax.training.signals import stop_signals, stoppable

BUSY = """
import jax, sys
from uda_jax.training.signals import stop_signals
with stop_signals() as stopped:
    endless = jax.jit(lambda: jax.lax.while_loop(lambda x: x >= 0, lambda x: (x + 1) % 7, 0))
    print("ready", flush=True)
    endless().block_until_ready()  # inside XLA: Python's own handlers do not run
"""


def test_a_second_ctrl_c_ends_at_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        assert "Ctrl-C" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)  # an impatient scheduler is no second Ctrl-C
        time.sleep(0.5)
        assert process.poll() is None
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
        assert time.monotonic() - sent < 2


def test_a_program_is_preempted_outside_of_training_too() -> None:
    """While it imports, or writes a report; a scheduler sees the same status as of a run that was training."""
    program = "import time; from uda_jax import cli; cli.run(lambda: (print('ready', flush=True), time.sleep(60)))"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == STOPPED
    assert said.endswith("stopped; the same command goes on from there\n")


def test_a_signal_raises_the_flag_and_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with stop_signals() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_compiling_stops_and_nothing_is_donated() -> None:
    def slow(x: jax.Array) -> jax.Array:
        for i in range(300):
            x = jnp.sin(x @ x) + i
        return x

    x = jnp.ones((8, 8))
    jitted = jax.jit(slow, donate_argnums=0)
    with pytest.raises(Stopped):
        stoppable(jitted, lambda: True)(x)
    expected = slow(x)
    assert jnp.allclose(stoppable(jitted, lambda: False)(x), expected, atol=1e-4)


def test_errors_of_the_compiler_are_raised() -> None:
    too_large = jax.jit(lambda: jnp.zeros((1 << 20, 1 << 20, 1 << 10)) + 1)
    with pytest.raises(Exception, match=r"(?i)memory|alloc|exhausted|large|overflow"):
        stoppable(too_large, lambda: False)()


def test_two_steps_at_most_are_in_flight() -> None:
    """XLA:CPU runs large programs in the background: without waiting all of them would be unfinished."""
    work = jax.jit(lambda x: jax.lax.fori_loop(0, 40, lambda _, y: jnp.tanh(y @ x), x))
    x = work(jnp.eye(400)).block_until_ready()
    ahead: deque[jax.Array] = deque()
    dispatched, unfinished = [], []
    for _ in range(6):
        dispatched.append(work(x))
        unfinished.append(sum(not y.is_ready() for y in dispatched))
        wait(ahead, dispatched[-1])
    assert max(unfinished) <= IN_FLIGHT
    assert max(unfinished) >= 1
    assert sum(not y.is_ready() for y in dispatched) < IN_FLIGHT


def test_a_stopped_run_has_an_exit_status_of_its_own(data_dir: Path, tmp_path: Path) -> None:
    """A scheduler that starts failed jobs again must not take it for done."""
    command = [sys.executable, "-m", "uda_jax.main", *TINY, f"--config.data.dir={data_dir}", f"--workdir={tmp_path}/x"]
    command += ["--config.train.steps=2500"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "x" / "metrics.jsonl"
    while not (log.exists() and log.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == STOPPED == 75
    assert "the same command goes on from there" in said and "Traceback" not in said
    assert (tmp_path / "x" / "config.json").exists() and list((tmp_path / "x" / "checkpoints").glob("[0-9]*"))
