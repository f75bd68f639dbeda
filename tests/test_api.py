"""What `import uda_jax` offers: segmenters from a config or a file, and what they say of pictures."""

import doctest
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import uda_jax
from tests.test_export import make_run
from tests.test_main import ROOT
from tests.weights.test_weights import tiny
from uda_jax import api
from uda_jax.data import labels
from uda_jax.errors import UserError
from uda_jax.export import export
from uda_jax.models.networks import build_networks
from uda_jax.training.loop import initial_state
from uda_jax.training.sharding import make_mesh
from uda_jax.training.state import TrainState, create_state
from uda_jax.weights.arrays import read_arrays, write_arrays

SIZE = (32, 64)


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    config = tiny("resnet18", init="he")
    config.data.eval.size, config.data.source.size = SIZE, (24, 48)
    make_run(directory, config, 1)
    return directory


@pytest.fixture(scope="module")
def file(workdir: Path) -> Path:
    return export(workdir, out=workdir / "model.npz")


def main_logits(config: ConfigDict, state: TrainState, batch: np.ndarray) -> np.ndarray:
    """By a program without the other level, as a segmenter's is: XLA may round two programs apart."""
    networks = build_networks(config)
    main = jax.jit(lambda *inputs: networks.predict(*inputs).main)
    return np.asarray(main(state.params, state.batch_stats, batch))


def test_a_loaded_segmenter_is_the_exported_one(workdir: Path, tmp_path: Path) -> None:
    state = make_run(tmp_path, tiny("resnet18", init="he"), 1)[1]
    batch = images(2, *SIZE)
    logits = main_logits(tiny("resnet18"), state, batch)
    assert len(np.unique(logits.argmax(-1))) > 1  # else any prediction would do
    for format in ("npz", "safetensors"):
        segmenter = uda_jax.load_segmenter(export(workdir, format))
        jax.tree.map(partial(np.testing.assert_array_equal, strict=True), segmenter.params, state.params)
        jax.tree.map(partial(np.testing.assert_array_equal, strict=True), segmenter.batch_stats, state.batch_stats)
        assert (segmenter.classes, segmenter.size) == (labels.NAMES, SIZE)
    np.testing.assert_array_equal(segmenter.logits(batch), logits, strict=True)
    np.testing.assert_array_equal(segmenter.predict(batch), logits.argmax(-1).astype(np.uint8), strict=True)
    np.testing.assert_allclose(segmenter.probabilities(batch), jax.nn.softmax(logits), rtol=1e-6)
    np.testing.assert_allclose(segmenter.logits(batch[1]), logits[1], rtol=1e-4, atol=1e-4 * np.abs(logits).max())
    assert segmenter.predict(batch[0], (61, 97)).shape == (61, 97)


def test_another_backbone_and_head_are_rebuilt_from_what_the_file_says(tmp_path: Path) -> None:
    """All of their settings that logits depend on differ from the defaults."""
    config = tiny("efficientnet_lite0", head="daformer", head_width=8, num_classes=5, two_levels=False)
    config.model.update(output_stride=32, align_corners=False, mean=(127.0,) * 3, std=(128.0,) * 3, bgr=False)
    state, batch = make_run(tmp_path, config, 1)[1], images(1, 40, 56)
    logits = main_logits(config, state, batch)
    assert logits.shape == (1, 40, 56, 5) and len(np.unique(logits.argmax(-1))) > 1
    segmenter = uda_jax.load_segmenter(export(tmp_path))
    np.testing.assert_array_equal(segmenter.logits(batch), logits, strict=True)


def test_the_examples_of_the_documentation_run(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    found = doctest.testmod(api)
    assert found.attempted >= 8
    assert not found.failed


def test_a_built_segmenter_is_what_training_starts_from(file: Path) -> None:
    config = tiny("resnet18", init="he")
    config.seed = 5
    state = jax.jit(partial(create_state, config, build_networks(config)))()
    segmenter = uda_jax.build_segmenter(config)
    jax.tree.map(partial(np.testing.assert_array_equal, strict=True), segmenter.params, state.params)
    config.model.pretrained = str(file)
    state = initial_state(config, build_networks(config), make_mesh())
    segmenter = uda_jax.build_segmenter(config)
    jax.tree.map(partial(np.testing.assert_array_equal, strict=True), segmenter.params, state.params)
    assert segmenter.classes[:2] == ("class 0", "class 1")
    config.model.stem = "none"
    with pytest.raises(UserError, match=r"config\.model\.stem='none' is not one of"):
        uda_jax.build_segmenter(config)


def test_a_file_without_metadata_wants_a_config(file: Path, tmp_path: Path) -> None:
    arrays, _ = read_arrays(file)
    write_arrays(tmp_path / "bare.npz", arrays, {})
    with pytest.raises(UserError, match=r"bare\.npz does not say what model it holds; .*load_segmenter\(file, config"):
        uda_jax.load_segmenter(tmp_path / "bare.npz")
    segmenter = uda_jax.load_segmenter(tmp_path / "bare.npz", tiny("resnet18"))
    np.testing.assert_array_equal(segmenter.params["head"]["bias_0"], arrays["head.0.bias"])
    with pytest.raises(UserError, match=r"(?s)bare\.npz does not fit .* config given.*missing"):
        uda_jax.load_segmenter(tmp_path / "bare.npz", tiny("resnet34"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gone": 1}, r"written by uda_jax 9\.9, .* this version, .*settings unknown here, model\.gone"),
        ({"backbone": "resnet19"}, r"cannot build: config\.model\.backbone='resnet19' is not one of"),
        ({"width": "wide"}, "cannot build"),
        ({"width": 8}, "does not fit its model"),
    ],
)
def test_files_of_another_version_or_model(change: dict[str, Any], words: str, file: Path, tmp_path: Path) -> None:
    arrays, metadata = read_arrays(file)
    write_arrays(tmp_path / "w.npz", arrays, {**metadata, "uda_jax": "9.9", "model": {**metadata["model"], **change}})
    with pytest.raises(UserError, match=rf"(?s)w\.npz.*{words}"):
        uda_jax.load_segmenter(tmp_path / "w.npz")


def test_a_backbone_alone_predicts_nothing(file: Path, tmp_path: Path) -> None:
    arrays, metadata = read_arrays(file)
    backbone = {name: array for name, array in arrays.items() if "head" not in name}
    write_arrays(tmp_path / "w.npz", backbone, metadata)
    with pytest.raises(UserError, match=r"w\.npz has no aux_head, head, .* --config\.model\.pretrained"):
        uda_jax.load_segmenter(tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((32, 64, 3)), r"type float64: expected uint8"),
        (np.zeros((32, 64), np.uint8), r"shape \(32, 64\): expected \(B, H, W, 3\) or \(H, W, 3\)"),
        (np.zeros((1, 3, 32, 64), np.uint8), "channels last"),
        (np.zeros((32, 64, 4), np.uint8), r"images\[\.\.\., :3\]"),
        (np.zeros((0, 32, 64, 3), np.uint8), r"shape \(0, 32, 64, 3\)"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, words: str, file: Path) -> None:
    with pytest.raises(UserError, match=words):
        uda_jax.load_segmenter(file).predict(array)


WITHOUT_TENSORFLOW = """
import sys
sys.modules |= {"tensorflow": None, "tensorflow_datasets": None}  # importing them fails
import numpy as np
import uda_jax.export
assert uda_jax.export.main(["--checkpoint=RUN", "--out=RUN/without.npz"]) == 0
segmenter = uda_jax.load_segmenter("RUN/without.npz")
np.save("RUN/without.npy", segmenter.predict(np.load("RUN/images.npy")))
"""


def test_exporting_and_predicting_need_no_tensorflow(workdir: Path, file: Path) -> None:
    batch = images(1, *SIZE)
    np.save(workdir / "images.npy", batch)
    script = WITHOUT_TENSORFLOW.replace("RUN", str(workdir))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(workdir / "without.npy"), uda_jax.load_segmenter(file).predict(batch))


def test_importing_the_package_is_cheap() -> None:
    """The version is read by whoever installs it, and commands import the package before they parse a flag."""
    script = "import sys, uda_jax; print(uda_jax.__version__, sorted({'jax', 'numpy', 'flax'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{uda_jax.__version__} []\n"
    assert all(getattr(uda_jax, name).__doc__ for name in uda_jax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'load_segmentr'"):
        uda_jax.load_segmentr  # noqa: B018
