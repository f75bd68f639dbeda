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
        while read line; do echo '{{"seconds": 1.5, "cpu_seconds": 2.5, "loss": 3.0, "peak_gib": 0.5}}'; done
        echo >{tmp_path}/ended"""
    config = demo.get_config()
    path = python(tmp_path, script)
    with step.against(path, config, step.twin_of(["source_only"], path)) as runs:
        taken = step.race({"ours": lambda: step.Taken(1.0, 1.0, 3.0, 0.5), **runs}, 2)
    assert taken == [{"ours": (1.0, 1.0, 3.0, 0.5), "torch 2.0": (1.5, 2.5, 3.0, 0.5)}] * 2
    assert capsys.readouterr().out == "torch 2.0: 12,345 parameters, 3 threads\n"
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[1:] == ["--size=128x64", "--batch=2", "--classes=19"]
    assert (tmp_path / "ended").exists()


def test_mistakes(tmp_path):
    def start(path: str, *methods: str) -> None:
        with step.against(path, demo.get_config(), step.twin_of(methods, path)):
            pass

    with pytest.raises(UserError, match=r"not source_only and minent's; add --methods=source_only or --methods=adapt"):
        start("python", "source_only", "minent")
    with pytest.raises(UserError, match=r"those of source_only and adaptsegnet, not minent's"):
        start("python", "minent")
    with pytest.raises(UserError, match=r"--against=/no/python: cannot be run \(No such file"):
        start("/no/python", "source_only")
    with pytest.raises(UserError, match=r"cannot import torch \(No module named 'torch'\); give a Python"):
        start(python(tmp_path, """echo "a trace\nNo module named 'torch'" >&2; exit 1"""), "source_only")
    with pytest.raises(UserError, match=r"python: ended with status 7; what it said is above"):
        start(python(tmp_path, '[ "$1" = -c ] || exit 7'), "source_only")


def test_losses_from_equal_weights_agree():
    assert (
        step.losses_agree({"ours": 2.0, "torch": 2.001}) == "losses from equal weights: ours 2.000000, torch 2.001000"
    )
    for differing in (2.003, float("nan")):
        with pytest.raises(UserError, match=r"differ: ours 2.000000, torch .*; these are not the same step"):
            step.losses_agree({"ours": 2.0, "torch": differing})


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


@pytest.mark.slow
@pytest.mark.skipif(not TORCH_PYTHON, reason="UDA_TORCH_PYTHON names no Python that has PyTorch")
def test_the_published_step_loses_the_same_in_torch() -> None:
    command = [sys.executable, "-m", "benchmarks.step", "--config=configs/gta5_to_cityscapes_adaptsegnet.py"]
    command += ["--size=96x64", "--steps=1", f"--against={TORCH_PYTHON}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    ours, theirs = re.findall(r"^\S+(?: \S+)?: ([\d,]+) parameters", done.stdout, re.MULTILINE)
    assert ours == theirs
    assert "losses from equal weights: adaptsegnet " in done.stdout
