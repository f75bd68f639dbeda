"""A run whose files were damaged goes on rightly, or says what is wrong and what to do; see also test_kill.py."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from tests.conftest import shrink
from tests.test_main import ROOT, TINY
from tests.training.test_train import assert_equal
from uda_jax.config import default_config
from uda_jax.errors import UserError
from uda_jax.export import export
from uda_jax.training import checkpoint
from uda_jax.training.loop import train

CHECKPOINT = Path("checkpoints") / "4"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> tuple[ConfigDict, Path]:
    """Of four steps, with checkpoints of two of them."""
    config = shrink(default_config(), str(data_dir))
    config.method, config.model.two_levels = "source_only", False
    workdir = tmp_path_factory.mktemp("damage") / "run"
    train(config, workdir)
    return config, workdir


@pytest.mark.slow
def test_cut_off_data_are_answered(data_dir: Path, tmp_path: Path) -> None:
    """In a process of its own: Orbax leaves reads behind, which complain in later tests."""
    command = [sys.executable, "-m", "uda_jax.main", *TINY, f"--config.data.dir={data_dir}", f"--workdir={tmp_path}/x"]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    for file in (tmp_path / "x" / "checkpoints" / "2" / "default").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert f"error: {tmp_path}/x/checkpoints/2 cannot be restored: " in again.stderr
    assert "remove that directory to go on from the checkpoint before." in again.stderr  # Orbax's threads may add to it


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{half of", b"[1, 2]", b'{"custom_metadata": null}'],
    ids=["none", "empty", "half", "list", "null"],
)
def test_what_a_checkpoint_says_of_itself_is_no_condition(
    run: tuple[ConfigDict, Path], tmp_path: Path, content: bytes | None
) -> None:
    workdir = shutil.copytree(run[1], tmp_path / "run")
    assert checkpoint.read_about(workdir, 4)["classes"][:2] == ["road", "sidewalk"]
    path = workdir / CHECKPOINT / "_CHECKPOINT_METADATA"
    path.write_bytes(content) if content is not None else path.unlink()
    assert checkpoint.read_about(workdir, 4) == {}
    assert export(workdir, out=tmp_path / "w.npz").exists()


@pytest.mark.parametrize("content", [b"{half of", None])
def test_a_damaged_checkpoint_can_be_removed(
    run: tuple[ConfigDict, Path], tmp_path: Path, content: bytes | None
) -> None:
    config, whole = run
    workdir = shutil.copytree(whole, tmp_path / "run")
    path = workdir / CHECKPOINT / "default" / "_METADATA"
    path.write_bytes(content) if content is not None else path.unlink()
    with pytest.raises(UserError, match=r"checkpoints/4 cannot be restored(?s:.*)remove that directory") as caught:
        train(config, workdir)
    assert len(str(caught.value)) < 1000
    shutil.rmtree(workdir / CHECKPOINT)
    assert_equal(train(config, workdir), train(config, whole))
