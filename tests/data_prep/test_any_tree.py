"""Whatever people have in their folders: what is built of a file is right to the pixel, or the file is named."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from data_prep import build
from data_prep.verify import check as verify
from tests.data_prep import any_tree
from tests.data_prep.any_tree import File, Tree
from uda_jax.data import pipeline

READING = {"unreadable-image", "unreadable-label", "coloured-label", "unknown-ids"}  # faults of single files


@pytest.mark.parametrize("seed", range(40))
def test_every_file_is_stored_exactly_or_named(tmp_path, capsys, seed):
    check(seed, tmp_path, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40, 140))
def test_many_more_trees(tmp_path, capsys, seed):
    check(seed, tmp_path, capsys)


def check(seed: int, directory: Path, capsys) -> None:
    """Builds a tree, taking away file after file that is refused, as a user would, until it is built."""
    root = directory / f"tree {seed}"
    root.mkdir()
    tree = any_tree.draw(np.random.default_rng(seed), root)
    _verify(tree, directory)
    lost, left = list(tree.lost), dict(tree.scenes)
    while True:
        capsys.readouterr()
        status = _build(tree, directory)
        said = "".join(capsys.readouterr())
        assert status in (0, 2), said
        missed = [path for path in lost if str(path) not in said]
        if status == 0:
            assert not missed, f"nothing is said of {missed}"
            return _compare(tree, left, directory)
        refused = [name for name, scene in left.items() if any(path in said for path in _questionable(scene))]
        named = [path for path in lost if path not in missed]
        assert refused or named, said
        for name in refused:
            scene = left.pop(name)
            scene.image_path.unlink()
            scene.label_path.unlink()
        for path in named:
            lost.remove(path)
            path.unlink()


def _build(tree: Tree, directory: Path) -> int:
    more = ["--name=x"] if tree.dataset.startswith("folders") else ["--size=full"]
    return build.main([*tree.arguments, *more, f"--out={directory / 'data'}", "--workers=1"])


def _questionable(scene: any_tree.Scene) -> list[str]:
    """The paths that may be in an error."""
    files = ((scene.image_path, scene.image), (scene.label_path, scene.label))
    return [str(path) for path, file in files if file.pixels is None or not file.sure]


def _compare(tree: Tree, left: dict[str, any_tree.Scene], directory: Path) -> None:
    encoded = {"image": tfds.decode.SkipDecoding()}
    builder = pipeline.open_builder(str(directory / "data"), tree.dataset)
    found = {e["id"].decode(): e for e in tfds.as_numpy(builder.as_dataset(split="train", decoders=encoded))}
    assert set(found) == set(left)
    for name, scene in left.items():
        assert scene.label.pixels is not None, f"{scene.label_path} was built, of which no label can be made"
        np.testing.assert_array_equal(found[name]["label"][..., 0], scene.label.pixels)
        _compare_image(scene.image_path, scene.image, found[name]["image"])


def _compare_image(path: Path, file: File, stored: bytes) -> None:
    assert file.pixels is not None, f"{path} was built, of which no image can be made"
    decoded = tf.io.decode_image(stored, channels=3, expand_animations=False).numpy()
    if stored == file.content and stored.startswith(b"\xff\xd8"):  # a JPEG, which TensorFlow rounds otherwise
        assert decoded.shape == file.pixels.shape
        with Image.open(io.BytesIO(stored)) as picture:
            assert picture.mode == "RGB"
    else:
        np.testing.assert_array_equal(decoded, file.pixels)


def _verify(tree: Tree, directory: Path) -> None:
    """It must list what cannot be built, and nothing else as what cannot be read."""
    target = directory / "report.json"
    assert verify.main([*tree.arguments, f"--json={target}"]) in (0, 1)
    findings = json.loads(target.read_text())["findings"]
    faults = {place["file"] for f in findings if f["severity"] == "fault" for place in f["places"]}
    unread = {place["file"] for f in findings if f["kind"] in READING for place in f["places"]}
    for scene in tree.scenes.values():
        for path, file in ((scene.image_path, scene.image), (scene.label_path, scene.label)):
            if file.pixels is None and file.sure:
                assert str(path) in faults
            elif file.sure:
                assert str(path) not in unread
