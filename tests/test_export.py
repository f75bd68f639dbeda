"""A run's weights as a file: exported, read by NumPy alone, and taken back bit for bit."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import uda_jax
from tests.numpy_forward import predict
from tests.test_main import ROOT
from tests.training.test_sharding import run_on
from tests.weights.test_weights import assert_same_weights, quiet, random_state, tiny
from uda_jax.config import default_config
from uda_jax.data import labels
from uda_jax.errors import UserError
from uda_jax.export import class_names, export, main, read_config
from uda_jax.models.networks import build_networks
from uda_jax.runs import claim
from uda_jax.training import checkpoint
from uda_jax.training.loop import initial_state
from uda_jax.training.sharding import make_mesh
from uda_jax.training.state import TrainState
from uda_jax.weights.arrays import read_arrays
from uda_jax.weights.trees import flatten, load_pretrained


def make_run(workdir: Path, config: ConfigDict, *steps: int) -> dict[int, TrainState]:
    """What training leaves in a workdir, with random weights: config.json and a checkpoint of each step."""
    claim(workdir, config)
    manager = checkpoint.make_manager(workdir)
    states = {step: random_state(config, seed=step).replace(step=jnp.asarray(step)) for step in steps}
    for step, state in states.items():
        checkpoint.save(manager, step, state, {"classes": list(labels.NAMES)})
    manager.close()
    return states


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ConfigDict, dict[int, TrainState]]:
    workdir, config = tmp_path_factory.mktemp("run"), tiny("resnet18")
    return workdir, config, make_run(workdir, config, 2, 4)


@pytest.mark.parametrize("format", ["npz", "safetensors"])
def test_a_round_trip_is_exact_to_the_bit(format: str, run: Any, tmp_path: Path) -> None:
    workdir, config, states = run
    for step, state in states.items():
        file = export(workdir, format, tmp_path / f"{step}.{format}", step)
        loaded = load_pretrained(random_state(config, seed=9), str(file), config.model, quiet)
        assert_same_weights(loaded, state)


@pytest.mark.parametrize(
    "model", [{"backbone": "vgg16", "two_levels": False}, {"backbone": "resnet18", "stem": "small"}]
)
def test_runs_without_discriminators_or_statistics(model: dict[str, Any], tmp_path: Path) -> None:
    config = tiny(**model)
    config.method = "source_only"
    state = make_run(tmp_path, config, 1)[1]
    assert not state.discriminator_params
    file = export(tmp_path)
    assert file == tmp_path / "weights-1.npz"
    assert_same_weights(load_pretrained(random_state(config, seed=9), str(file), config.model, quiet), state)


def test_training_starts_from_an_export(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workdir, config, states = run
    config = config.copy_and_resolve_references()
    config.model.pretrained = str(export(workdir, out=tmp_path / "w.safetensors"))
    state = initial_state(config, build_networks(config), make_mesh())
    assert_same_weights(state, states[4])
    assert "w.safetensors: loaded 128 arrays: backbone 100, head 4, aux_head 4, " in capsys.readouterr().out
    assert all(x.sharding.is_fully_replicated for x in flatten(state).values())


def test_metadata_says_what_it_takes_to_use_the_weights(run: Any, tmp_path: Path) -> None:
    workdir, config, _ = run
    _, metadata = read_arrays(export(workdir, out=tmp_path / "w.npz"))
    assert metadata["classes"] == list(labels.NAMES)
    assert (metadata["num_classes"], metadata["method"], metadata["step"]) == (19, "adaptsegnet", 4)
    assert metadata["sizes"] == {"source": [32, 64], "target": [32, 64], "eval": [32, 64]}
    assert metadata["preprocessing"] == {"mean": list(config.model.mean), "std": [1.0, 1.0, 1.0], "bgr": True}
    assert metadata["model"] == json.loads(json.dumps(config.model.to_dict()))
    assert metadata["discriminator"] == {"width": 4, "layers": 5}
    assert metadata["uda_jax"] == uda_jax.__version__


def test_class_names_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    """They were guessed where a run had not been evaluated yet: 19 classes of one's own became Cityscapes'."""
    own = [f"thing {i}" for i in range(19)]
    state = random_state(tiny("resnet18"), seed=1)
    with checkpoint.make_manager(tmp_path) as manager:
        checkpoint.save(manager, 1, state, {"classes": own})
        checkpoint.save(manager, 2, state)  # as before checkpoints had classes
    assert class_names(tmp_path, 1, 19) == own
    assert class_names(tmp_path, 2, 2) == ["class 0", "class 1"]
    (tmp_path / "evaluation.json").write_text(json.dumps({"classes": ["cat", "dog"]}))
    assert class_names(tmp_path, 2, 2) == ["cat", "dog"]
    (tmp_path / "evaluation.json").write_text("{")
    assert class_names(tmp_path, 1, 19) == own
    with pytest.raises(UserError, match=r"evaluation\.json is damaged"):
        class_names(tmp_path, 2, 2)


@pytest.mark.parametrize(
    ("dtype", "model"),
    [
        ("float32", {"backbone": "resnet18"}),
        ("float32", {"backbone": "resnet50", "stride_in_1x1": False}),
        # Standard deviations that float32 divides by exactly, however XLA does it.
        ("float64", {"backbone": "resnet18", "stem": "small", "bgr": False, "std": (64.0, 32.0, 16.0)}),
        ("float64", {"backbone": "resnet50", "two_levels": False, "dilations": (1, 2, 3)}),
    ],
)
def test_numpy_alone_gives_the_same_logits(dtype: str, model: dict[str, Any], tmp_path: Path) -> None:
    config = tiny(dtype=dtype, param_dtype=dtype, **model)
    image = np.random.default_rng(0).integers(0, 256, (33, 50, 3), np.uint8)
    with jax.enable_x64(dtype == "float64"):
        state = make_run(tmp_path, config, 1)[1]
        forward = jax.jit(build_networks(config).predict)
        ours = np.asarray(forward(state.params, state.batch_stats, image[None]).main[0])
    arrays, metadata = read_arrays(export(tmp_path))
    assert {array.dtype.name for array in arrays.values()} == {dtype}
    theirs = predict(arrays, metadata["model"], image).transpose(1, 2, 0)
    assert ours.dtype == dtype
    assert ours.std() > 0.01  # the comparison would pass on logits that are all alike
    tolerance = 1e-9 if dtype == "float64" else 1e-4
    np.testing.assert_allclose(theirs, ours, rtol=tolerance, atol=tolerance * np.abs(ours).max())


TWO_DEVICES = """
import jax
from jax.sharding import NamedSharding, PartitionSpec
from pathlib import Path
from tests.weights.test_weights import random_state, tiny
from uda_jax.training import checkpoint
from uda_jax.runs import claim
from uda_jax.training.sharding import make_mesh

config, workdir, mesh = tiny("resnet18"), Path(WORKDIR), make_mesh()
assert jax.device_count() == 2

def place(x):
    axes = [None] * (x.ndim - 1) + ["data"] if x.ndim and x.shape[-1] % 2 == 0 else []
    return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*axes)))

claim(workdir, config)
manager = checkpoint.make_manager(workdir)
checkpoint.save(manager, 3, jax.tree.map(place, random_state(config)))
manager.close()
"""


@pytest.mark.slow
def test_a_checkpoint_of_two_devices_is_exported_on_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run's parameters were split over its devices, and its data are nowhere."""
    run_on(2, "-c", TWO_DEVICES.replace("WORKDIR", repr(str(tmp_path))))
    assert main([f"--checkpoint={tmp_path}", "--format=safetensors"]) == 0
    assert capsys.readouterr().out.startswith(f"wrote {tmp_path}/weights-3.safetensors (0.")
    config = tiny("resnet18")
    loaded = load_pretrained(random_state(config, 9), f"{tmp_path}/weights-3.safetensors", config.model, quiet)
    assert_same_weights(loaded, random_state(config))


def test_settings_newer_than_the_run_have_their_defaults(run: Any, tmp_path: Path) -> None:
    stored = json.loads((run[0] / "config.json").read_text())
    del stored["model"]["pretrained_skip"], stored["eval"]
    stored["data"]["gone"] = 1
    (tmp_path / "config.json").write_text(json.dumps(stored))
    config = read_config(tmp_path)
    assert config.model == run[1].model
    assert config.eval == default_config().eval != run[1].eval
    stored["model"]["gone"] = 1
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"settings unknown to uda_jax .*: model\.gone"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--step=3"], "no checkpoint of step 3; there are 2, 4"),
        (["--out=w.pth"], "the format .pth is unknown; expected .npz or .safetensors"),
        (["--out=w.npz", "--format=safetensors"], "--out=w.npz has another suffix than --format=safetensors"),
        (["--format=onnx"], "invalid choice: 'onnx'"),
        (["--checkpoint=/nowhere"], "/nowhere is no training run: it has no config.json"),
    ],
)
def test_mistakes_are_answered_with_the_way_out(
    flags: list[str], words: str, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(run[0].iterdir())
    try:
        status = main([f"--checkpoint={run[0]}", *flags])
    except SystemExit as e:  # argparse's own
        status = e.code
    assert status == 2
    assert words in capsys.readouterr().err
    assert sorted(run[0].iterdir()) == before


def test_workdirs_that_are_incomplete_or_damaged(tmp_path: Path) -> None:
    config = tiny("resnet18")
    claim(tmp_path, config)
    with pytest.raises(UserError, match="checkpoints holds no checkpoint yet"):
        export(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
    make_run(tmp_path, config, 1, 2)
    metadata = tmp_path / "checkpoints" / "2" / "default" / "_METADATA"
    metadata.write_bytes(metadata.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"checkpoints/2 cannot be restored(?s:.*)--step"):
        export(tmp_path)
    assert export(tmp_path, step=1).exists()
    for text, words in (
        (json.dumps(tiny("resnet18", width=8).to_dict()), r"does not fit .*config\.json: \d+ arrays"),
        (json.dumps(tiny("resnet50").to_dict()), r"does not fit .*config\.json"),
        ("{", "is not the config of a run"),
        ("[]", "is not the config of a run"),
        ('{"model": 5}', "is not the config of a run"),
        ('{"method": "none"}', r"config\.method='none' is not one of"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=words):
            export(tmp_path, step=1)


@pytest.mark.slow
def test_the_command_and_a_checkpoint_whose_data_are_cut_off(tmp_path: Path) -> None:
    """In processes of their own: after damaged data Orbax leaves reads behind, which complain in later tests."""
    make_run(tmp_path, tiny("resnet18"), 1)

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "uda_jax.export", f"--checkpoint={tmp_path}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    good = run()
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith(f"wrote {tmp_path}/weights-1.npz")
    (tmp_path / "weights-1.npz").unlink()
    for file in (tmp_path / "checkpoints" / "1" / "default").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    bad = run()
    assert bad.returncode == 2
    assert f"error: {tmp_path}/checkpoints/1 cannot be restored" in bad.stderr
    assert not (tmp_path / "weights-1.npz").exists()
