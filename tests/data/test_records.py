"""uda_jax.data.records and data_prep.index: records are found by their index, at once, wherever a stream starts."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from data_prep import index
from tests.data.test_pipeline import SIZE, TRAIN, data, numbers, stream, take, write_scene  # noqa: F401
from uda_jax.data import pipeline, records, statistics
from uda_jax.errors import UserError

MANY = 1_087 * TRAIN  # 25,001


def directory(data_dir: str) -> Path:
    return Path(data_dir) / "folders" / "small" / "1.0.0"


@pytest.fixture
def copied(data: str, tmp_path: Path) -> Path:  # noqa: F811
    """The version directory of a copy of folders/small below tmp_path."""
    target = directory(str(tmp_path))
    target.mkdir(parents=True)
    for file in directory(data).iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_an_index_tells_where_records_lie_and_what_labels_hold(data):  # noqa: F811
    builder = pipeline.open_builder(data, "folders/small")
    found = records.read_index(builder, "train", "")
    content = (directory(data) / str(found.files[0])).read_bytes()
    assert len(found.shard) == TRAIN and set(found.shard) == {0}
    examples = builder.as_dataset(split="train").as_numpy_iterator()
    for offset, length, pixels, ignored, example in zip(*found[2:], examples, strict=True):
        assert example["id"] in content[offset + 12 : offset + 12 + length]
        assert ignored == SIZE[1] and pixels.sum() == SIZE[1] * (SIZE[0] - 1)
        assert pixels[int(example["id"]) % 19] == pixels.sum()
    bare = records.read_index(builder, "bare", "")
    assert bare.pixels.sum() == bare.ignored.sum() == 0 and bare.pixels.shape == (5, 0)


def test_a_set_of_before_gets_its_index_by_the_command_that_the_error_names(copied, tmp_path, capsys):
    expected = (copied / "train.index.npz").read_bytes(), (copied / statistics.FILENAME).read_text()
    for name in ("train.index.npz", "val.index.npz", "bare.index.npz", statistics.FILENAME):
        (copied / name).unlink()
    with pytest.raises(UserError, match=f"python -m data_prep.index --data={tmp_path} --dataset=folders/small"):
        take(str(tmp_path), 1, stream())
    assert index.main([f"--data={tmp_path}", "--dataset=folders/small"]) == 0
    assert "indexed bare, train, val" in capsys.readouterr().out
    with np.load(copied / "train.index.npz") as now, np.load(directory_of(expected[0], tmp_path)) as before:
        assert all(np.array_equal(now[name], before[name]) for name in records.Index._fields)
    assert (copied / statistics.FILENAME).read_text() == expected[1]


def directory_of(content: bytes, tmp_path: Path) -> Path:
    (tmp_path / "before.npz").write_bytes(content)
    return tmp_path / "before.npz"


def test_an_index_of_other_files_or_a_damaged_one_is_refused(copied, tmp_path):
    (file,) = copied.glob("*train*tfrecord*")
    content = file.read_bytes()
    file.write_bytes(content[:-10])
    with pytest.raises(UserError, match=rf"train.index.npz is of another {file.name}, of {len(content)} bytes and not"):
        take(str(tmp_path), 1, stream())
    file.write_bytes(content)
    whole = (copied / "train.index.npz").read_bytes()
    for damaged in (whole[:100], b"", b"no archive"):
        (copied / "train.index.npz").write_bytes(damaged)
        with pytest.raises(UserError, match="not the index that was written"):
            take(str(tmp_path), 1, stream())


def test_records_that_cannot_be_read_are_refused_by_the_command(copied, tmp_path, capsys):
    (file,) = copied.glob("*train*tfrecord*")
    file.write_bytes(file.read_bytes()[:-10])
    assert index.main([f"--data={tmp_path}", "--dataset=folders/small"]) == 2
    assert "the records of 'train' cannot be read" in capsys.readouterr().err


def test_slices_and_sums_of_splits_are_found_by_the_index(data):  # noqa: F811
    for split, count in (("train[3:10]", 7), ("val+train[-2:]", 7), ("train[:2]+val[1:3]", 4)):
        found = sorted(numbers(take(data, count, stream(split=split), batch_size=1)))
        batches = pipeline.eval_batches(data, stream(split=split), batch_size=1)
        assert found == sorted(int(batch["id"][0]) for batch in batches)


def test_a_stream_of_several_weighted_sets(data, tmp_path):  # noqa: F811
    from data_prep import folders

    for number in (25, 26):  # brighter than all of folders/small
        write_scene(tmp_path / "raw", number)
    folders.build(Path(data), "bright", {"train": (tmp_path / "raw" / "images", tmp_path / "raw" / "labels")})
    both = "folders/small+folders/bright"
    assert pipeline.describe(data, both, "train")["count"] == TRAIN + 2
    by_size = numbers(take(data, TRAIN + 2, stream(dataset=both), batch_size=1))
    assert sorted(by_size) == [*range(TRAIN), 25, 26]
    drawn = numbers(take(data, 20, stream(dataset=both, weights=(1.0, 4.0)), batch_size=5))
    assert sum(number >= 25 for number in drawn) == 80
    scored = pipeline.eval_batches(data, stream(dataset=both), batch_size=1)
    assert sorted(int(batch["id"][0]) for batch in scored) == sorted(by_size)


def test_sets_of_other_classes_are_no_stream(data, tmp_path):  # noqa: F811
    from data_prep import folders
    from data_prep.label_map import LabelMap

    write_scene(tmp_path / "raw", 3)
    two = LabelMap("two", ("road", "sidewalk"), {3: 1, 255: 255}, {})
    folders.build(
        Path(data), "two", {"train": (tmp_path / "raw" / "images", tmp_path / "raw" / "labels")}, label_map=two
    )
    with pytest.raises(UserError, match=r"folders/small and folders/two in .* have different classes"):
        take(data, 1, stream(dataset="folders/small+folders/two"))


@pytest.fixture(scope="module")
def many(data: str, tmp_path_factory: pytest.TempPathFactory) -> str:  # noqa: F811
    """folders/small with 25,000 records in "train", those of the original over and over."""
    out = tmp_path_factory.mktemp("many")
    target = directory(str(out))
    target.mkdir(parents=True)
    for file in directory(data).iterdir():
        if file.suffix == ".json":
            (target / file.name).write_bytes(file.read_bytes())
    found = records.read_index(pipeline.open_builder(data, "folders/small"), "train", "")
    (source,) = directory(data).glob("*train*tfrecord*")
    few = source.read_bytes()
    (target / source.name).write_bytes(few * (MANY // TRAIN))
    (count,) = found.shard.shape
    repeated = {name: np.concatenate([column] * (MANY // TRAIN)) for name, column in found._asdict().items()}
    repeated["offset"] = repeated["offset"] + len(few) * (np.arange(len(repeated["offset"])) // count)
    many = records.Index(**{**repeated, "files": found.files})
    (target / records.filename("train")).write_bytes(records.to_bytes(many))
    info = json.loads((target / "dataset_info.json").read_text())
    (train,) = (split for split in info["splits"] if split["name"] == "train")
    info["splits"] = [{**train, "shardLengths": [str(len(many.shard))]}]
    (target / "dataset_info.json").write_text(json.dumps(info))
    return str(out)


def test_any_position_of_25000_records_is_reached_in_constant_time(many):
    """Under a second to the first batch, however far a run had come."""
    take(many, 1, stream())  # TensorFlow's own start
    seconds = {}
    for start in (0, 6_249, 20_000_000):
        timed = []
        for _ in range(3):
            began = time.perf_counter()
            batch = take(many, 1, stream(), start=start)[0]
            timed.append(time.perf_counter() - began)
        seconds[start] = min(timed)
        assert batch["image"].shape == (4, *SIZE, 3)
    assert max(seconds.values()) < 1, seconds


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-5])


@pytest.mark.parametrize("fault", [flipped, cut_off, Path.unlink])
@pytest.mark.parametrize("training", [True, False])
def test_records_that_go_bad_while_a_run_reads_them_are_a_message_with_the_way_out(fault, training, copied, tmp_path):
    make = pipeline.train_stream if training else pipeline.eval_batches
    options = {"seed": 0} if training else {}
    batches = make(str(tmp_path), stream(label_size=()), batch_size=1, **options)  # the index is checked here
    [file] = copied.glob("*-train.tfrecord*")
    fault(file)
    command = f"python -m data_prep.verify --data={tmp_path} --dataset=folders/small"
    with pytest.raises(UserError, match=r"folders/small .train. in .* cannot be read any more: ") as error:
        for _ in range(2 * TRAIN):
            next(batches)
    assert command in str(error.value) and "{{" not in str(error.value)
