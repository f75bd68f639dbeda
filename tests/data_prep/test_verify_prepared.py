"""data_prep.verify on prepared sets: damage in records is found, named and alone."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_prep import build
from data_prep.verify import check as verify
from data_prep.verify.rules import FAULT
from tests.data_prep.picture_files import with_part
from tests.data_prep.raw_trees import WRITERS, raw_ids, scene
from tests.data_prep.test_verify import pictures, run, surprising, truncate
from uda_jax.data import pipeline


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """folders/mine: train with three labelled scenes in one file, and two without labels in "target"."""
    root = tmp_path_factory.mktemp("prepared")
    target = pictures(root / "raw", "target", count=2, seed=20) / "images"
    splits = [f"--split=train={pictures(root / 'raw')}", f"--split=target={target}"]
    assert build.main(["--dataset=folders", "--name=mine", f"--out={root}", "--workers=1", *splits]) == 0
    return root


@pytest.fixture
def prepared(built, tmp_path) -> Path:
    """A copy of `built` to spoil."""
    shutil.copytree(built / "folders", tmp_path / "folders")
    return tmp_path


def run_prepared(root: Path, *more: str) -> tuple[int, dict[str, dict]]:
    return run(root, "--dataset=folders/mine", f"--data={root}", *more)


def shard(root: Path) -> Path:
    (path,) = (root / "folders" / "mine").glob("*/*-train.tfrecord-*")
    return path


def rewrite(path: Path, change: Callable[[list[tf.train.Example]], None]) -> None:
    """Changes the examples of a file of records."""
    examples = [tf.train.Example.FromString(r) for r in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()]
    change(examples)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for example in examples:
            writer.write(example.SerializeToString())


def stored(example: tf.train.Example, key: str) -> list[bytes]:
    return example.features.feature[key].bytes_list.value


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_a_prepared_set_passes(prepared):
    status, found = run_prepared(prepared, f"--sheet={prepared / 'sheet.png'}")
    assert status == 0 and surprising(found) == {}
    assert (prepared / "sheet.png").is_file()


def test_the_streets_pass(data_dir, tmp_path):
    status, found = run(tmp_path, "--dataset=streets/camera", f"--data={data_dir}", "--limit=6")
    assert status == 0 and list(surprising(found)) == ["sample"]


def _stored_label_ids(examples: list[tf.train.Example]) -> None:
    for k, example in enumerate(examples):
        stored(example, "label")[0] = _png(raw_ids(scene("camera", k)[1], "cityscapes", 0))


def _stored_damage(key: str) -> Callable[[list[tf.train.Example]], None]:
    def change(examples: list[tf.train.Example]) -> None:
        encoded = stored(examples[1], key)[0]
        stored(examples[1], key)[0] = encoded[:-60]

    return change


def _same_id(examples: list[tf.train.Example]) -> None:
    stored(examples[1], "id")[0] = stored(examples[0], "id")[0]


def _other_label(examples: list[tf.train.Example]) -> None:
    stored(examples[1], "label")[0] = _png(scene("camera", 12)[1])


def _smaller_label(examples: list[tf.train.Example]) -> None:
    for example in examples:
        stored(example, "label")[0] = _png(scene("camera", 12, (16, 32))[1])


def _only_pillow_reads(examples: list[tf.train.Example]) -> None:
    encoded = stored(examples[1], "image")[0]
    stored(examples[1], "image")[0] = with_part(encoded, b"FOOB", b"libpng does not know this part")


def _palette_label(examples: list[tf.train.Example]) -> None:
    """Training would read the grey of the colours, not the indices."""
    picture = Image.fromarray(scene("camera", 1)[1])
    picture.putpalette([200, 100, 50] * 256)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    stored(examples[1], "label")[0] = stream.getvalue()


STORED_PLANTS = {
    "label ids": (_stored_label_ids, {"wrong-ids", "statistics"}),
    "a broken image": (_stored_damage("image"), {"unreadable-image"}),
    "a broken label": (_stored_damage("label"), {"unreadable-label", "statistics"}),
    "an image that TensorFlow cannot decode": (_only_pillow_reads, {"unreadable-image"}),
    "a label that TensorFlow reads otherwise": (_palette_label, {"unreadable-label", "statistics"}),
    "an id twice": (_same_id, {"repeated-id"}),
    "a record less": (lambda examples: examples.pop(), {"damaged-file", "statistics"}),
    "other labels than were counted": (_other_label, {"statistics"}),
    "labels of no size that is recorded": (_smaller_label, {"different-sizes", "statistics"}),
}


@pytest.mark.parametrize("plant", STORED_PLANTS)
def test_a_fault_in_the_records_is_found(prepared, plant):
    change, kinds = STORED_PLANTS[plant]
    size = shard(prepared).stat().st_size
    rewrite(shard(prepared), change)
    if shard(prepared).stat().st_size != size and "damaged-file" not in kinds:
        kinds = {*kinds, "index"}  # it is of the records as they were
    status, found = run_prepared(prepared)
    assert status == 1
    assert {kind for kind, finding in found.items() if finding["severity"] == FAULT} == kinds
    assert all(found[kind]["places"] for kind in kinds)


def test_a_truncated_file_of_records_is_named_and_the_rest_is_read(prepared):
    truncate(shard(prepared))
    status, found = run_prepared(prepared)
    assert status == 1 and found["damaged-file"]["places"][0]["file"] == str(shard(prepared))
    assert "after record 2" in found["damaged-file"]["places"][0]["remark"]
    assert found["sample"]["what"] == "4 of 5 scenes were read"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "metadata.json"])
def test_a_set_whose_descriptions_are_damaged_is_answered(prepared, capsys, name, content):
    path = next(prepared.rglob(name))
    path.write_bytes(content)
    assert verify.main(["--dataset=folders/mine", f"--data={prepared}"]) == 2
    error = capsys.readouterr().err
    assert f"error: {path.parent} cannot be read" in error and "Build it again with --overwrite" in error


def test_labels_at_full_size_beside_smaller_images_are_right(tmp_path):
    WRITERS["cityscapes"](tmp_path / "raw")
    arguments = ["--dataset=cityscapes", f"--raw={tmp_path / 'raw'}", f"--out={tmp_path}", "--size=32x16"]
    assert build.main([*arguments, "--workers=1"]) == 0
    status, found = run(tmp_path, "--dataset=cityscapes", f"--data={tmp_path}")
    assert status == 0 and surprising(found) == {} and "count" in found
    assert pipeline.describe(str(tmp_path), "cityscapes", "val")["labelled"]
