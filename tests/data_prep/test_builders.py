"""The published data sets, built from tiny raw trees in their true layouts and encodings; and what is refused."""

import errno
import importlib.util
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict
from PIL import Image

from data_prep import build, builders
from data_prep.pictures import resize_image, resize_label
from data_prep.raw import RAW_SETS
from tests.data_prep import raw_trees
from tests.data_prep.raw_trees import SIZE, WRITERS, Written, raw_ids, save, save_palette
from uda_jax.data import labels, pipeline, statistics
from uda_jax.errors import UserError
from uda_jax.files import alone

SMALL = (16, 32)  # stored (height, width)


def stored(data: Path, name: str, split: str, **decoders) -> dict[str, dict]:
    """Examples by id."""
    builder = pipeline.open_builder(str(data), name)
    found = tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders))
    return {example["id"].decode(): example for example in found}


def run(name: str, raw: Path, data: Path, *options: str, size: str | None = "32x16") -> int:
    arguments = [f"--dataset={name}", f"--raw={raw}", f"--out={data}", "--workers=1", *options]
    return build.main(arguments + ([f"--size={size}"] if size else []))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, tuple[Path, Path, Written]]:
    """Name -> (raw tree, data directory, what was drawn), stored at 32x16."""
    made = {}
    for name, write in WRITERS.items():
        root = tmp_path_factory.mktemp(name)
        made[name] = root / "raw", root / "data", write(root / "raw")
        assert run(name, *made[name][:2]) == 0
    return made


@pytest.mark.parametrize("name", WRITERS)
def test_every_scene_is_stored_with_its_train_ids(built, name):
    _, data, written = built[name]
    full = RAW_SETS[name].full_label_splits
    for split, scenes in written.items():
        examples = stored(data, name, split)
        assert set(examples) == set(scenes)
        for key, (image, truth) in scenes.items():
            example = examples[key]
            np.testing.assert_array_equal(example["image"], resize_image(image, SMALL))
            unlabelled = (truth == 255).all()
            expected = truth if split in full and not unlabelled else resize_label(truth, SMALL)
            if name == "cityscapes" and split == "test":
                expected = np.full(SMALL, 255, np.uint8)
            np.testing.assert_array_equal(example["label"][..., 0], expected)
            assert example["original_size"].tolist() == list(SIZE)


@pytest.mark.parametrize("name", WRITERS)
def test_statistics_are_those_of_the_stored_labels(built, name):
    _, data, written = built[name]
    for split in written:
        if name == "cityscapes" and split == "test":
            assert not pipeline.describe(str(data), name, split)["labelled"]
            continue
        truths = [example["label"] for example in stored(data, name, split).values()]
        found = statistics.read_statistics(str(data), name, split)
        counts = np.stack([np.bincount(truth.ravel(), minlength=256) for truth in truths])
        assert found.images == len(truths) and found.ignored == counts[:, 255].sum()
        np.testing.assert_array_equal(found.pixels, counts[:, :19].sum(0))
        np.testing.assert_array_equal(found.images_with, (counts[:, :19] > 0).sum(0))
        assert found.shares().sum() == pytest.approx(1)


def test_statistics_of_several_splits_add_up_and_others_are_refused(built, tmp_path):
    data = str(built["cityscapes"][1])
    parts = [statistics.read_statistics(data, "cityscapes", split) for split in ("train", "val")]
    both = statistics.read_statistics(data, "cityscapes", "train+val")
    np.testing.assert_array_equal(both.pixels, parts[0].pixels + parts[1].pixels)
    for split in ("test", "train[:1]", "train+test"):
        with pytest.raises(UserError, match=r"cityscapes has no class statistics of '(test|train\[:1\])'.*train, val"):
            statistics.read_statistics(data, "cityscapes", split)
    shutil.copytree(data, tmp_path / "data")
    file = tmp_path / "data" / "cityscapes" / "1.0.0" / statistics.FILENAME
    file.write_text('{"classes": ["road"], "splits": {"train": {}}}')
    with pytest.raises(UserError, match=r"not the file that the build wrote.*Build cityscapes again"):
        statistics.read_statistics(str(tmp_path / "data"), "cityscapes", "train")
    file.unlink()
    with pytest.raises(UserError, match="built before statistics were kept"):
        statistics.read_statistics(str(tmp_path / "data"), "cityscapes", "train")
    assert "%" not in build.summary(str(tmp_path / "data"), "cityscapes")


def test_scoring_reads_full_size_labels(built):
    _, data, written = built["cityscapes"]
    stream = ConfigDict({"dataset": "cityscapes", "split": "val", "size": SMALL, "label_size": SIZE})
    (batch,) = pipeline.eval_batches(str(data), stream, batch_size=2)
    for name, label in zip(batch["id"], batch["label"], strict=True):
        np.testing.assert_array_equal(label, written["val"][name][1])


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_read_disjoint_shards_that_are_the_whole_set(built, processes):
    _, data, written = built["gta5"]
    stream = ConfigDict({"dataset": "gta5", "split": "train", "size": SMALL, "label_size": ()})
    seen: list[str] = []
    for index in range(processes):
        batches = pipeline.eval_batches(
            str(data), stream, batch_size=processes, process_index=index, process_count=processes
        )
        seen += [name for batch in batches for name in batch["id"] if name]
    assert sorted(seen) == sorted(written["train"])  # every scene once, so shares do not overlap


def test_images_of_the_right_size_are_stored_byte_for_byte(built, tmp_path):
    for name, file in (("gta5", "images/00001.png"), ("visda17", f"raw_images/{0:032x}-00000.jpg")):
        raw = built[name][0]
        assert run(name, raw, tmp_path, size="full") == 0
        split = next(iter(RAW_SETS[name].published))
        examples = stored(tmp_path, name, split, image=tfds.decode.SkipDecoding())
        assert examples[Path(file).stem]["image"] == (raw / file).read_bytes()


def test_jpeg_is_an_encoding(built, tmp_path):
    assert run("gta5", built["gta5"][0], tmp_path, "--encoding=jpeg") == 0
    example = stored(tmp_path, "gta5", "train", image=tfds.decode.SkipDecoding())["00001"]
    assert example["image"].startswith(b"\xff\xd8")


def test_sizes_are_as_published_unless_given(tmp_path):
    raw_trees.gta5(tmp_path / "raw", count=1)
    assert run("gta5", tmp_path / "raw", tmp_path, size=None) == 0
    example = stored(tmp_path, "gta5", "train")["00001"]
    assert example["image"].shape == (720, 1280, 3) and example["label"].shape == (720, 1280, 1)


def test_the_summary_counts_against_what_was_published(built, capsys):
    print(build.summary(str(built["cityscapes"][1]), "cityscapes"))
    out = capsys.readouterr().out
    assert "train: 2 images of 2975 published, labelled" in out
    assert "test: 2 images of 1525 published, without labels" in out
    assert "%  road" in out and "%  (ignored)" in out


@pytest.mark.slow
def test_processes_write_what_one_process_writes(built, tmp_path):
    raw, data, _ = built["gta5"]
    assert run("gta5", raw, tmp_path, "--workers=2") == 0
    for one in sorted((data / "gta5" / "1.0.0").iterdir()):
        two = tmp_path / "gta5" / "1.0.0" / one.name
        if one.name != "dataset_info.json":
            assert one.read_bytes() == two.read_bytes(), one.name


def test_a_label_of_another_size_is_resized_with_a_warning_in_gta5_alone(tmp_path, capsys):
    for name, file in (("gta5", "labels/00001.png"), ("cityscapes", "gtFine/train/aachen/aachen_000000_000019")):
        WRITERS[name](tmp_path / name)
        truth = raw_trees.scene("rendered", 5, (40, 80))[1]
        path = tmp_path / name / (file if name == "gta5" else f"{file}_gtFine_labelIds.png")
        save(path, raw_ids(truth, "gta5", 0))
        status = run(name, tmp_path / name, tmp_path / "data")
        error = capsys.readouterr().err
        assert "64x32" in error and "80x40" in error and path.name in error
        if name == "gta5":
            assert status == 0 and "warning: 1 labels" in error
            example = stored(tmp_path / "data", name, "train")["00001"]
            np.testing.assert_array_equal(example["label"][..., 0], resize_label(truth, SMALL))
        else:
            assert status == 2 and "they must be of one size" in error


def test_gta5_labels_may_be_coloured_but_not_in_strange_colours(built, tmp_path, capsys):
    written = raw_trees.gta5(tmp_path / "raw", count=2)
    truth = written["train"]["00002"][1]
    path = save(tmp_path / "raw" / "labels" / "00002.png", labels.palette()[truth])
    assert run("gta5", tmp_path / "raw", tmp_path, size="full") == 0
    np.testing.assert_array_equal(stored(tmp_path, "gta5", "train")["00002"]["label"][..., 0], truth)
    pixels = labels.palette()[truth]
    pixels[0, 0] = 1, 2, 3
    save(path, pixels)
    assert run("gta5", tmp_path / "raw", tmp_path, "--overwrite") == 2
    assert "00002.png is a coloured label picture with 1 unknown colours, such as (1, 2, 3)" in capsys.readouterr().err


def test_gta5_in_parts_and_by_lists_of_ids(tmp_path, capsys):
    for part in (1, 2):
        raw_trees.gta5(tmp_path / "whole", count=2)
        for kind in ("images", "labels"):
            target = tmp_path / "raw" / f"0{part}" / kind
            target.mkdir(parents=True)
            (tmp_path / "whole" / kind / f"0000{part}.png").rename(target / f"0000{part}.png")
    assert {scene[0] for scene in RAW_SETS["gta5"].find(tmp_path / "raw")["train"]} == {"00001", "00002"}
    (tmp_path / "train.txt").write_text("00002\n\n")
    (tmp_path / "val.txt").write_text("00001\n00009\n")
    assert run("gta5", tmp_path / "raw", tmp_path, f"--split=train={tmp_path / 'train.txt'}") == 0
    assert set(stored(tmp_path, "gta5", "train")) == {"00002"}
    capsys.readouterr()
    assert run("gta5", tmp_path / "raw", tmp_path, "--overwrite", f"--split=val={tmp_path / 'val.txt'}") == 2
    assert "val.txt: 1 of 2 ids are not in the data set; ids look like 00001" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["8-bit RGB", "16-bit grey", "8-bit grey"])
def test_synthia_labels_in_other_encodings(tmp_path, kind):
    truth = raw_trees.synthia(tmp_path, count=1)["train"]["0000000"][1]
    ids = raw_ids(truth, "synthia", 0)
    path = tmp_path / "RAND_CITYSCAPES" / "GT" / "LABELS" / "0000000.png"
    if kind == "8-bit RGB":
        save(path, np.stack([ids, 3 * ids, 0 * ids], axis=-1))
    else:
        save(path, ids.astype(np.uint16) if kind.startswith("16") else ids)
    raw = RAW_SETS["synthia"]
    train_ids, unknown = raw.to_train_ids(raw.read_label(path))
    np.testing.assert_array_equal(train_ids, truth)
    assert unknown == []


def test_every_cityscapes_id_has_its_train_id(tmp_path):
    ids = np.array([[*range(34), 255]], np.uint8)
    raw = RAW_SETS["cityscapes"]
    train_ids, unknown = raw.to_train_ids(raw.read_label(save(tmp_path / "a.png", ids)))
    published = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12}
    published |= {26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    assert train_ids[0].tolist() == [published.get(i, 255) for i in ids[0].tolist()] and unknown == []
    assert raw.to_train_ids(np.array([[-1, 34, 77]], np.int32))[1] == [34, 77]
    gta5 = RAW_SETS["gta5"].to_train_ids(np.array([[34, 35]], np.int32))
    assert gta5[0].tolist() == [[255, 255]] and gta5[1] == [35]


def test_every_synthia_id_has_its_train_id():
    published = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12, 8: 13}
    published |= {18: 14, 19: 15, 20: 16, 12: 17, 11: 18}
    train_ids, unknown = RAW_SETS["synthia"].to_train_ids(np.arange(24, dtype=np.int32)[None])
    assert train_ids[0].tolist() == [published.get(i, 255) for i in range(24)] and unknown == [23]


BAD = {
    "unknown ids": (np.full(SIZE, 77, np.uint8), "00001.png has label ids 77, which gta5 does not have"),
    "all ignored": (np.zeros(SIZE, np.uint8), "all pixels of all its labels are ignored"),
    "train ids": (raw_trees.scene("rendered", 1)[1] % 19, "look like train ids"),
}


@pytest.mark.parametrize("case", BAD)
def test_labels_that_cannot_be_meant_are_refused_and_nothing_is_left(tmp_path, capsys, case):
    raw_trees.gta5(tmp_path / "raw", count=1)
    save_palette(tmp_path / "raw" / "labels" / "00001.png", BAD[case][0], labels.GTA5)
    assert run("gta5", tmp_path / "raw", tmp_path / "data") == 2
    assert BAD[case][1] in capsys.readouterr().err
    assert list((tmp_path / "data" / "gta5").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "gone", "message"),
    [
        ("gta5", "images", "has no directory 'images'"),
        ("gta5", "labels", "has no directory 'labels'"),
        ("gta5", "labels/00002.png", "1 of 3 images have no label map:\n  .*images/00002.png"),
        ("gta5", "images/00002.png", "1 of 3 label maps have no image:\n  .*labels/00002.png"),
        ("synthia", "RAND_CITYSCAPES/GT/LABELS", "has no GT/LABELS"),
        ("synthia", "RAND_CITYSCAPES", "has no RGB and no GT/LABELS"),
        ("cityscapes", "leftImg8bit", "has no leftImg8bit .from leftImg8bit_trainvaltest.zip"),
        ("cityscapes", "gtFine", "has no gtFine/train .from gtFine_trainvaltest.zip"),
        ("cityscapes", "gtFine/val/munster/munster_000000_000019_gtFine_labelIds.png", "1 of 2 images have no label"),
        ("visda17", "raw_images", "has no directory raw_images or images"),
    ],
)
def test_what_is_missing_is_said(built, tmp_path, name, gone, message):
    shutil.copytree(built[name][0], tmp_path / "raw")
    path = tmp_path / "raw" / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=message):
        RAW_SETS[name].find(tmp_path / "raw")


def test_cityscapes_needs_label_ids(tmp_path):
    raw_trees.cityscapes(tmp_path)
    for path in (tmp_path / "gtFine").rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("_labelIds", "_labelTrainIds")))
    with pytest.raises(UserError, match=r"gtFine/train has no \*_gtFine_labelIds.png \(other files do not do\)"):
        RAW_SETS["cityscapes"].find(tmp_path)


def test_visda17_without_labels(tmp_path):
    written = raw_trees.visda17(tmp_path / "raw", labelled=False)["test"]
    assert run("visda17", tmp_path / "raw", tmp_path) == 0
    assert not pipeline.describe(str(tmp_path), "visda17", "test")["labelled"]
    assert set(stored(tmp_path, "visda17", "test")) == set(written)
    assert json.loads((tmp_path / "visda17" / "1.0.0" / statistics.FILENAME).read_text())["splits"] == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset=gta5"], "--raw=None: expected the directory where gta5 is unpacked"),
        (["--dataset=gta5", "--raw=nowhere"], "--raw=nowhere: expected the directory"),
        (["--dataset=gta5", "--name=x"], "--name does not go with --dataset=gta5, which takes --raw"),
        (["--dataset=streets", "--raw=x"], "--raw does not go with --dataset=streets"),
        (["--dataset=gta5", "--raw=.", "--workers=0"], "--workers=0 must be at least 1"),
        (
            ["--dataset=folders", "--name=x", "--split=train=.", "--label_map=no.yaml"],
            "--label_map=no.yaml: no such file",
        ),
    ],
)
def test_command_line_mistakes(tmp_path, capsys, arguments, message):
    assert build.main([f"--out={tmp_path}", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_lists_of_ids_must_be_files(built, tmp_path, capsys):
    for split, message in (("train", "expected SPLIT=FILE"), ("train=nowhere.txt", "nowhere.txt: no such file")):
        assert run("gta5", built["gta5"][0], tmp_path, f"--split={split}") == 2
        assert message in capsys.readouterr().err


def test_two_builds_of_one_set_at_once_are_refused(built, tmp_path, capsys):
    (tmp_path / "gta5").mkdir()
    with alone(tmp_path / "gta5", "building"):
        assert run("gta5", built["gta5"][0], tmp_path) == 2
        assert "another process is building" in capsys.readouterr().err
    assert run("gta5", built["gta5"][0], tmp_path) == 0


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    class Full(builders.SceneBuilder):
        """Fails like a full disk."""

        def _generate_examples(self, split):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield split

    plan = builders.Plan({"train": []}, {}, labels.NAMES)
    with pytest.raises(UserError, match=r"no space left for .*nothing was kept"):
        builders.write(lambda scratch: Full(data_dir=scratch, plan=plan), tmp_path / "full" / "1.0.0")
    assert list((tmp_path / "full").iterdir()) == []


@pytest.mark.parametrize("name", WRITERS)
def test_tfds_builds_it_from_the_same_file(built, tmp_path, name, monkeypatch):
    """What `tfds build data_prep/NAME.py --manual_dir=RAW --data_dir=DATA` does."""
    made = tfds.core.community.builder_cls_from_module(f"data_prep.{name}")
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(made, "raw", RAW_SETS[name]._replace(default_size=SMALL))
    how = tfds.download.DownloadConfig(manual_dir=built[name][0], try_download_gcs=False)
    made(data_dir=tmp_path).download_and_prepare(download_config=how)
    for file in (built[name][1] / name / "1.0.0").iterdir():
        if file.name != "dataset_info.json":
            assert file.read_bytes() == (tmp_path / name / "1.0.0" / file.name).read_bytes(), file.name


def test_beam_builds_the_same_set(built, tmp_path):
    pytest.importorskip("apache_beam")
    raw, data, written = built["cityscapes"]
    assert run("cityscapes", raw, tmp_path, "--beam=--runner=DirectRunner") == 0
    for split in written:
        ours, theirs = stored(tmp_path, "cityscapes", split), stored(data, "cityscapes", split)
        assert set(ours) == set(theirs)
        for key, example in ours.items():
            np.testing.assert_equal(example, theirs[key])
    one, two = (path / "cityscapes" / "1.0.0" for path in (data, tmp_path))
    assert json.loads((one / statistics.FILENAME).read_text()) == json.loads((two / statistics.FILENAME).read_text())
    assert {path.suffix for path in two.iterdir() if "tfrecord" not in path.name} == {".json"}
    assert not list(two.glob("*.counts.json"))


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is not None, reason="Apache Beam is installed")
def test_without_beam_the_extra_is_named(built, tmp_path, capsys):
    assert run("gta5", built["gta5"][0], tmp_path, "--beam=--runner=DirectRunner") == 2
    assert 'pip install "uda_jax[beam]"' in capsys.readouterr().err


def test_palettes_are_pictures_only(tmp_path):
    """A palette PNG read as RGB would give colours; its indices are what counts."""
    truth = raw_trees.gta5(tmp_path, count=1)["train"]["00001"][1]
    path = tmp_path / "labels" / "00001.png"
    assert np.asarray(Image.open(path).convert("RGB")).shape == (*SIZE, 3)
    np.testing.assert_array_equal(RAW_SETS["gta5"].read_label(path), raw_ids(truth, "gta5", 0))
