"""Pythons that cannot install this are told so, with those that can; what is installed, and that it runs alone."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import uda_jax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS = PROJECT["scripts"]


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
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


def test_all_say_the_same_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == uda_jax.__version__
    assert f"\n## {uda_jax.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_command_has_a_console_script() -> None:
    """Its target is in the module that `python -m` runs."""
    modules = [path for package in ("uda_jax", "data_prep") for path in (ROOT / package).rglob("*.py")]
    commands = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in modules
        if 'if __name__ == "__main__":' in path.read_text()
    }
    former = {"data_prep.weights"}
    assert commands - former == {target.partition(":")[0] for target in SCRIPTS.values()}
    assert all(name.startswith("uda-") for name in SCRIPTS)


def python(*args: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=cwd, capture_output=True, text=True, env=os.environ | variables)


def build(kind: str, source: Path, out: Path) -> Path:
    """The "wheel" or "sdist" of a source tree, made without the network."""
    out.mkdir()
    said = python("-c", f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})", cwd=source)
    built = list(out.iterdir())
    assert len(built) == 1, said.stderr
    return built[0]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacked; of a copy, which building writes into."""
    directory = tmp_path_factory.mktemp("sdist")
    unwanted = shutil.ignore_patterns("__pycache__", ".git", ".cache", ".*_cache", ".venv*", "*.egg-info")
    own = [".ci", "benchmarks", "configs", "data_prep", "docs", "tests", "uda_jax"]
    for name in own:
        shutil.copytree(ROOT / name, directory / "tree" / name, ignore=unwanted)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".git":
            shutil.copy(path, directory / "tree")
    with tarfile.open(build("sdist", directory / "tree", directory / "out")) as archive:
        archive.extractall(directory, filter="data")
    return directory / f"uda_jax-{uda_jax.__version__}"


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    return build("wheel", sdist, sdist.parent / "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A directory that holds what is installed, and nothing else of this project."""
    target = wheel.parent / "installed"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    said = python(*install, cwd=wheel.parent)
    assert target.is_dir(), said.stderr
    return target


def files(directory: Path, *suffixes: str) -> set[str]:
    found = {path for path in directory.rglob("*") if path.suffix in suffixes and "__pycache__" not in path.parts}
    return {path.relative_to(directory.parent).as_posix() for path in found}


@pytest.mark.slow
def test_the_source_archive_can_be_tested_and_worked_on(sdist: Path) -> None:
    names = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    for directory in ("benchmarks", "configs", "data_prep", "docs", "tests", "uda_jax"):
        assert {name for name in files(ROOT / directory, ".py", ".md", ".npz", ".gz", ".typed")} <= names
    assert {"Makefile", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", ".ci/run"} <= names


@pytest.mark.slow
def test_the_wheel_holds_both_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == files(ROOT / "uda_jax", ".py", ".typed") | files(ROOT / "data_prep", ".py", ".typed")
    assert {"uda_jax/py.typed", "data_prep/py.typed"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_commands_run_from_what_is_installed(name: str, installed: Path, tmp_path: Path) -> None:
    module = SCRIPTS[name].partition(":")[0].removesuffix(".__main__")
    variables = {"PYTHONPATH": str(installed), "COLUMNS": "100"}
    script = python(str(installed / "bin" / name), "--help", cwd=tmp_path, **variables).stdout
    command = python("-m", module, "--help", cwd=tmp_path, **variables).stdout
    # absl names the file that was started.
    shown = [[line for line in text.splitlines() if not line.startswith(str(installed))] for text in (script, command)]
    assert shown[0] == shown[1]
    assert any(flag in script for flag in ("--workdir", "--dataset", "--out", "--to")), script
