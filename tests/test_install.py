"""Pythons that cannot install this are told so, with those that can."""

import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("minor", "works"), [(10, False), (11, True), (13, True), (14, False)])
def test_make_answers_for_pythons_that_tensorflow_has_no_wheel_for(minor: int, works: bool, tmp_path: Path) -> None:
    python = tmp_path / "python"  # says that it is of this version, and answers as one would
    real = f"import sys; sys.version_info = (3, {minor}); exec(sys.argv.pop(1))"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && exec echo Python 3.{minor}.0\nexec python3 -c "{real}" "$2"\n'
    )
    python.chmod(0o755)
    answer = subprocess.run(["make", "python", f"PYTHON={python}"], cwd=ROOT, capture_output=True, text=True)
    assert (answer.returncode == 0) == works
    if not works:
        assert f"is Python 3.{minor}.0" in answer.stderr
        assert "take Python 3.11, 3.12 or 3.13, as in: make test PYTHON=python3.13" in answer.stderr


def test_pip_is_told_the_same() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
