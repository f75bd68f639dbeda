"""benchmarks.step against PyTorch: a stand-in for its process, and PyTorch itself where there is one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import step
from configs import demo
from uda_jax.errors import UserError

TORCH_PYTHON = os.environ.get("UDA_TORCH_PYTHON", "")
ROOT = Path(__file__).parents[2]


def python(directory: Path, script: str) -> str:
    """A program that is called as a Python would be."""
    path = directory / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_the_other_process_takes_its_turns_and_ends(tmp_path, capsys):
    script = f"""[ "$1" = -c ] && exit
        echo "$@" >{tmp_path}/arguments
        echo '{{"torch": "2.0", "threads": 3, "parameters": 12345}}'
        while read line; do echo '{{"seconds": 1.5, "cpu_seconds": 2.5, "loss": 3}}'; done
        echo >{tmp_path}/ended"""
    config = demo.get_config()
    with step.against(python(tmp_path, script), config, ["source_only"]) as runs:
        times = step.race({"ours": lambda: step.Time(1.0, 1.0), **runs}, 2)
    assert times == {"ours": [(1.0, 1.0)] * 2, "torch 2.0": [(1.5, 2.5)] * 2}
    assert capsys.readouterr().out == "torch 2.0: 12,345 parameters, 3 threads\n"
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[1:] == ["--size=128x64", "--batch=2", "--classes=19"]
    assert (tmp_path / "ended").exists()


def test_mistakes(tmp_path):
    def start(path: str, *methods: str) -> None:
        with step.against(path, demo.get_config(), methods):
            pass

    with pytest.raises(UserError, match=r"source_only's, not adaptsegnet and minent's; add --methods=source_only"):
        start("python", "adaptsegnet", "minent")
    with pytest.raises(UserError, match=r"--against=/no/python: cannot be run \(No such file"):
        start("/no/python", "source_only")
    with pytest.raises(UserError, match=r"cannot import torch \(No module named 'torch'\); give a Python"):
        start(python(tmp_path, """echo "a trace\nNo module named 'torch'" >&2; exit 1"""), "source_only")
    with pytest.raises(UserError, match=r"python: ended with status 7; what it said is above"):
        start(python(tmp_path, '[ "$1" = -c ] || exit 7'), "source_only")


@pytest.mark.slow
@pytest.mark.skipif(not TORCH_PYTHON, reason="UDA_TORCH_PYTHON names no Python that has PyTorch")
def test_the_race_against_torch() -> None:
    command = [sys.executable, "-m", "benchmarks.step", "--config=configs/demo.py", "--config.model.width=4"]
    command += ["--methods=source_only", "--size=64x32", "--steps=1", f"--against={TORCH_PYTHON}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    # EfficientNet-Lite0 without its classifier, and the head
    assert re.search(rf"^torch \S+: {2_958_848 + 255_315:,} parameters, \d+ threads$", done.stdout, re.MULTILINE)
    assert re.search(r"^torch \S+: step .* s = .* x the first; .* CPU s = .* x the first$", done.stdout, re.MULTILINE)
