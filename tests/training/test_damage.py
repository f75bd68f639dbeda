"""A run whose files were damaged goes on rightly, or says what is wrong and what to do; see also test_kill.py."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.conftest import shrink
from tests.test_main import TINY
from tests.training import forked
from tests.training.test_train import assert_equal
from uda_jax.config import default_config
from uda_jax.errors import UserError
from uda_jax.export import export
from uda_jax.training import checkpoint
from uda_jax.training.loop import train
from uda_jax.weights.arrays import read_arrays

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
    command = ["uda_jax.main", *TINY, f"--config.data.dir={data_dir}", f"--workdir={tmp_path}/x"]
    status, said = forked.run(*command)
    assert status == 0, said
    for file in (tmp_path / "x" / "checkpoints" / "2" / "default").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    status, said = forked.run(*command)
    assert status == 2
    assert f"error: {tmp_path}/x/checkpoints/2 cannot be restored: " in said
    assert f"remove {tmp_path}/x/checkpoints to begin anew." in said  # Orbax's threads may add to it


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


def flip(path: Path) -> None:
    """A bit in every kilobyte: some of them are in the weights, which are all that is exported."""
    content = bytearray(path.read_bytes())
    for i in range(512, len(content), 1024):
        content[i] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "half of what it says of its arrays": lambda checkpoint: (checkpoint / "default/_METADATA").write_bytes(
        b"{half of"
    ),
    "nothing of what it says of its arrays": lambda checkpoint: (checkpoint / "default/_METADATA").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_and_says_so(
    run: tuple[ConfigDict, Path], tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, whole = run
    workdir = shutil.copytree(whole, tmp_path / "run")
    DAMAGE[damage](workdir / CHECKPOINT)
    with pytest.raises(UserError, match=r"checkpoints/4 (cannot be restored|is damaged)(?s:.*)--step"):
        export(workdir, out=tmp_path / "w.npz")
    restored = train(config, workdir)
    assert_equal(restored, train(config, whole))
    said = capsys.readouterr().out
    assert f"warning: {workdir}/checkpoints/4 cannot be restored: " in said
    assert f"moved to {workdir}/damaged, going on from step 2" in said
    assert (workdir / "damaged" / "4" / "default").exists()
    assert checkpoint.steps(workdir) == [2, 4]
    assert export(workdir, out=tmp_path / "w.npz").exists()


@pytest.mark.slow
def test_bits_that_flipped_are_found_by_checksums(data_dir: Path, tmp_path: Path) -> None:
    """In processes of their own, as data that are cut off: some of the numbers cannot even be decoded."""
    workdir = tmp_path / "x"
    train = ["uda_jax.main", *TINY, f"--config.data.dir={data_dir}", f"--workdir={workdir}"]
    train.append("--config.train.checkpoint_every=1")

    status, said = forked.run(*train)
    assert status == 0, said
    before = read_arrays(export(workdir, out=tmp_path / "w.npz"))[0]
    for file in (workdir / "checkpoints/2/default").rglob("d/*"):  # which of them has the weights differs
        flip(file)
    status, said = forked.run("uda_jax.export", f"--checkpoint={workdir}", f"--out={tmp_path}/w.npz")
    assert status == 2 and f"{workdir}/checkpoints/2 " in said and "--step" in said
    status, said = forked.run(*train)
    assert status == 0, said
    assert f"warning: {workdir}/checkpoints/2 cannot be restored: " in said
    assert f"moved to {workdir}/damaged, going on from step 1" in said
    after = read_arrays(export(workdir, out=tmp_path / "w.npz"))[0]
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)


def test_checksums_change_with_values_names_shapes_and_types() -> None:
    tree = {"a": np.arange(6, dtype=np.float32), "b": {"c": np.float32(1.5)}}
    changes = [
        {"a": np.arange(6, dtype=np.float32) + np.float32(1e-6), "b": {"c": np.float32(1.5)}},
        {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": np.float32(1.5)}},
        {"a": np.arange(6, dtype=np.float64), "b": {"c": np.float32(1.5)}},
        {"x": np.arange(6, dtype=np.float32), "b": {"c": np.float32(1.5)}},
    ]
    found = [checkpoint.checksums({"params": each})["params"] for each in (tree, *changes)]
    assert len(set(found)) == len(found)
    assert found[0] == checkpoint.checksums({"params": jax.tree.map(jnp.asarray, tree)})["params"]
    assert checkpoint.changed({"params": tree}, {"checksums": {"params": found[1]}}) == ["params"]
    assert checkpoint.changed({"params": tree}, {}) == []  # of a checkpoint from before there were any
