"""A disk that runs full during a save: a small tmpfs in a mount namespace of its own, which needs no root."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_main import ROOT, TINY
from tests.training.test_distributed import alone, assert_same

FULL = """
mount -t tmpfs -o size=3m none "$1" || exit 99
shift
"$@"
status=$?
cp -r "$DISK/run" "$SAVED"
exit $status
"""


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_when_there_is_room(
    data_dir: Path, tmp_path: Path
) -> None:
    args = [*TINY, f"--config.data.dir={data_dir}", "--config.train.checkpoint_every=1", "--config.train.keep=50"]
    args.append("--config.train.steps=14")
    disk, saved = tmp_path / "disk", tmp_path / "saved"
    disk.mkdir()
    train = [sys.executable, "-m", "uda_jax.main", *args, f"--workdir={disk}/run"]
    run = subprocess.run(
        ["unshare", "-rm", "sh", "-c", FULL, "sh", str(disk), *train],
        cwd=ROOT,
        env=os.environ | {"DISK": str(disk), "SAVED": str(saved)},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode == 99 or "unshare" in run.stderr.splitlines()[0]:
        pytest.skip(f"no mount namespaces here: {run.stderr}")
    assert run.returncode == 2, run.stderr
    assert f"error: {disk}/run/checkpoints: no room for a checkpoint" in run.stderr
    assert "start the same command again" in run.stderr.splitlines()[-1]  # Orbax's threads complain before it
    assert sorted(int(path.name) for path in (saved / "checkpoints").iterdir() if path.name.isdigit())

    alone(saved, *args)  # copied to a disk with room
    alone(tmp_path / "whole", *args)
    assert_same(tmp_path / "whole", saved, 0)
