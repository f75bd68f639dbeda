"""data_prep.folders and the command line of data_prep.build: what is stored, and what is refused."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from data_prep import build, folders
from data_prep.files import folder_files
from uda_jax.data import pipeline
from uda_jax.data.statistics import read_statistics
from uda_jax.errors import UserError

HEIGHT, WIDTH = 12, 16
NOISE = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def write(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    (picture if mode is None else picture.convert(mode)).save(path)
    return path


def label_map(value: int = 3, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    return np.full(shape, value, np.uint8)


@pytest.fixture
def raw(tmp_path) -> Path:
    """raw/images and raw/labels with two scenes: a.jpg and town/b.PNG."""
    root = tmp_path / "raw"
    write(root / "images" / "a.jpg", NOISE)
    write(root / "images" / "town" / "b.PNG", NOISE)
    write(root / "labels" / "a.png", label_map(0))
    write(root / "labels" / "town" / "b.png", label_map(3))
    return root


def make(raw: Path, out: Path, size: tuple[int, int] | None = None, **options) -> Path:
    return folders.build(out, "mine", {"train": (raw / "images", raw / "labels")}, size, **options)


def stored(out: Path, split: str = "train", **decoders) -> dict[str, dict]:
    """Examples by id."""
    builder = pipeline.open_builder(str(out), "folders/mine")
    examples = tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders))
    return {example["id"].decode(): example for example in examples}


def test_files_of_the_right_form_are_stored_byte_for_byte(raw, tmp_path):
    assert make(raw, tmp_path) == tmp_path / "folders" / "mine" / "1.0.0"
    examples = stored(tmp_path, image=tfds.decode.SkipDecoding())
    assert set(examples) == {"a", "town/b"}
    assert examples["a"]["image"] == (raw / "images" / "a.jpg").read_bytes()
    assert examples["town/b"]["image"] == (raw / "images" / "town" / "b.PNG").read_bytes()
    assert (examples["town/b"]["label"] == 3).all()
    assert examples["a"]["original_size"].tolist() == [HEIGHT, WIDTH]


def test_resizing_keeps_label_ids_and_the_raw_size(raw, tmp_path):
    halves = label_map(2)
    halves[:, WIDTH // 2 :] = 18
    write(raw / "labels" / "a.png", halves)
    make(raw, tmp_path, size=(5, 9))
    example = stored(tmp_path)["a"]
    assert example["image"].shape == (5, 9, 3) and example["label"].shape == (5, 9, 1)
    assert set(np.unique(example["label"])) == {2, 18}
    assert example["original_size"].tolist() == [HEIGHT, WIDTH]


def test_grey_images_become_rgb_and_palette_labels_are_read_as_indices(raw, tmp_path):
    write(raw / "images" / "a.jpg", NOISE, "L")
    palette = Image.fromarray(label_map(5))
    palette.putpalette([200, 100, 50] * 256)
    palette.save(raw / "labels" / "a.png")
    make(raw, tmp_path)
    example = stored(tmp_path)["a"]
    assert example["image"].shape == (HEIGHT, WIDTH, 3)
    assert (np.ptp(example["image"], axis=-1) == 0).all()
    assert (example["label"] == 5).all()


def test_the_orientation_tag_of_a_camera_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    tall = io.BytesIO()
    Image.fromarray(NOISE).save(tall, "JPEG", exif=exif)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(tall.getvalue())
    folders.build(tmp_path, "mine", {"train": (tmp_path / "images", None)})
    assert stored(tmp_path)["a"]["image"].shape == (WIDTH, HEIGHT, 3)


def test_a_split_without_labels_is_all_ignored(raw, tmp_path):
    folders.build(tmp_path, "mine", {"train": (raw / "images", None)})
    assert (stored(tmp_path)["a"]["label"] == 255).all()
    assert not pipeline.describe(str(tmp_path), "folders/mine", "train")["labelled"]


def test_a_label_without_image_is_only_a_warning(raw, tmp_path, capsys):
    write(raw / "labels" / "spare.png", label_map())
    make(raw, tmp_path)
    assert "spare.png" in capsys.readouterr().out
    assert set(stored(tmp_path)) == {"a", "town/b"}


def test_images_without_labels_are_counted_and_listed(raw, tmp_path):
    for number in range(7):
        write(raw / "images" / f"x{number}.jpg", NOISE)
    with pytest.raises(UserError, match=r"(?s)7 of 9 images .*x0.jpg.*x4.jpg\n  ... and 2 more"):
        make(raw, tmp_path)


BAD_LABELS = {
    "another size": (
        label_map(shape=(HEIGHT, WIDTH + 1)),
        None,
        r"a.jpg is 16x12 and its label .*a.png is 17x12",
    ),
    "label ids": (label_map(26), None, r"a.png has label values 26: .*look like Cityscapes labelIds"),
    "other values": (label_map(77), None, r"a.png has label values 77: expected train ids 0..18 or 255"),
    "colours": (NOISE, None, r"a.png is a coloured label picture: .*train ids 0..18 .*or --label_map=FILE"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels_are_refused_and_nothing_is_left(raw, tmp_path, case):
    pixels, mode, message = BAD_LABELS[case]
    write(raw / "labels" / "a.png", pixels, mode)
    with pytest.raises(UserError, match=message):
        make(raw, tmp_path)
    assert list((tmp_path / "folders" / "mine").iterdir()) == []


def test_values_that_are_no_label_ids_get_no_such_hint(raw, tmp_path):
    write(raw / "labels" / "a.png", label_map(77))
    with pytest.raises(UserError) as error:
        make(raw, tmp_path)
    assert "labelIds" not in str(error.value)


def test_an_unreadable_image_is_named(raw, tmp_path):
    path = raw / "images" / "a.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"cannot read the image .*a.jpg"):
        make(raw, tmp_path)


def test_two_files_of_one_name_are_refused(raw, tmp_path):
    write(raw / "images" / "a.png", NOISE)
    with pytest.raises(UserError, match=r"two files of one name: .*a.jpg and .*a.png"):
        make(raw, tmp_path)


def test_directories_that_are_missing_or_empty_are_named(raw, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no images found in .*empty"):
        folder_files(tmp_path / "empty", None)
    with pytest.raises(UserError, match=r"no such directory: .*nowhere"):
        folder_files(raw / "images", tmp_path / "nowhere")


def test_an_existing_set_is_kept_unless_overwritten_by_a_whole_one(raw, tmp_path):
    make(raw, tmp_path)
    with pytest.raises(UserError, match="--overwrite"):
        make(raw, tmp_path)
    write(raw / "labels" / "a.png", label_map(99))
    with pytest.raises(UserError, match="99"):
        make(raw, tmp_path, overwrite=True)
    assert (stored(tmp_path)["a"]["label"] == 0).all()  # the old set is still there
    write(raw / "labels" / "a.png", label_map(9))
    make(raw, tmp_path, overwrite=True)
    assert (stored(tmp_path)["a"]["label"] == 9).all()


PROC = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="looks for processes in /proc")


def start_build(raw: Path, out: Path) -> subprocess.Popen:
    """A build of 400 images by two workers in a session of its own, which has begun to write."""
    for number in range(400):
        write(raw / "images" / f"{number}.jpg", NOISE)
    command = [sys.executable, "-m", "data_prep.build", "--dataset=folders", "--name=mine", f"--out={out}"]
    command += [
        "--split",
        f"train={raw / 'images'}",
        "--size=640x480",
        "--workers=2",
    ]  # large, so that it takes a while
    root = Path(build.__file__).parents[1]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    scratch = out / "folders" / "mine"
    while not list(scratch.glob(".building-*/**/*incomplete*")) or len(children(process.pid)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    return process


def children(pid: int) -> list[int]:
    """The processes that `pid` started, but for the resource tracker of multiprocessing."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@PROC
def test_a_killed_build_leaves_nothing_readable_and_can_be_run_again(raw, tmp_path):
    process = start_build(raw, tmp_path)
    workers = children(process.pid)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while any(map(alive, workers)):  # they end by themselves
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(UserError, match="no prepared dataset"):
        pipeline.open_builder(str(tmp_path), "folders/mine")
    scratch = tmp_path / "folders" / "mine"
    assert list(scratch.glob(".building-*"))
    folders.build(tmp_path, "mine", {"train": (raw / "images" / "town", None)})
    assert set(stored(tmp_path)) == {"b"}
    assert not list(scratch.glob(".building-*"))


@PROC
def test_ctrl_c_ends_a_build_with_a_message(raw, tmp_path):
    process = start_build(raw, tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    error = process.communicate()[1].decode()
    assert process.returncode == 130
    assert "the same command starts again" in error and "Traceback" not in error
    assert list((tmp_path / "folders" / "mine").iterdir()) == []


def test_a_label_map_gives_other_classes(raw, tmp_path, capsys):
    (tmp_path / "map.yaml").write_text(
        'classes: [street, Bäume]\nids: {7: street, 0: ignore}\ncolors: {"#6b8e23": Bäume, "0, 0, 0": ignore}'
    )
    write(raw / "labels" / "a.png", label_map(7))
    write(raw / "labels" / "town" / "b.png", np.full((HEIGHT, WIDTH, 3), (107, 142, 35), np.uint8))
    arguments = ["--dataset=folders", "--name=mine", f"--out={tmp_path}", f"--label_map={tmp_path / 'map.yaml'}"]
    assert build.main([*arguments, f"--split=train={raw}", f"--split=bare={raw / 'images'}", "--workers=1"]) == 0
    report = capsys.readouterr().out
    assert "50.00 %  street" in report and "50.00 %  Bäume" in report and "bare: 2 images, without labels" in report
    found = pipeline.describe(str(tmp_path), "folders/mine", "train")
    assert (found["classes"], found["ids"]) == (["street", "Bäume"], {"street": 7})  # trees have a colour and no id
    assert (stored(tmp_path)["a"]["label"] == 0).all() and (stored(tmp_path)["town/b"]["label"] == 1).all()
    counts = read_statistics(str(tmp_path), "folders/mine", "train")
    assert counts.pixels.tolist() == [HEIGHT * WIDTH] * 2 and counts.images_with.tolist() == [1, 1]


def test_names_may_have_spaces_and_letters_of_any_language(tmp_path):
    root = tmp_path / "Straßen bilder"
    write(root / "images" / "città 1" / "zebra é 街.jpg", NOISE)
    write(root / "labels" / "città 1" / "zebra é 街.png", label_map(1))
    make(root, tmp_path)
    assert set(stored(tmp_path)) == {"città 1/zebra é 街"}


def test_grey_labels_with_alpha_are_read_as_ids(raw, tmp_path):
    write(raw / "labels" / "a.png", label_map(4), "LA")
    make(raw, tmp_path)
    assert (stored(tmp_path)["a"]["label"] == 4).all()


def test_command_line_builds_and_reports(raw, tmp_path, capsys):
    arguments = [
        "--dataset=folders",
        "--name=mine",
        f"--split=train={raw}",
        "--size=8x6",
        f"--out={tmp_path}",
    ]
    assert build.main([*arguments, f"--split=val={raw / 'images'}"]) == 0
    report = capsys.readouterr().out
    assert "train: 2 images, labelled" in report and "val: 2 images, without labels" in report
    assert "50.00 %  road" in report and "50.00 %  wall" in report and "fence" not in report
    assert stored(tmp_path)["a"]["image"].shape == (6, 8, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name=mine"], "at least one --split"),
        (["--name=mine", "--split=photos"], "--split photos: expected SPLIT=DIR"),
        (["--name=mine", "--split=a=x", "--split=a=y"], "--split a is given twice"),
        (["--split=train=x"], "folders need a name"),
        (["--name=../x", "--split=train=x"], "folders need a name"),
        (["--name=mine", "--split=train=x", "--size=20"], "expected WIDTHxHEIGHT"),
        (["--name=mine", "--split=train=/nowhere"], "no such directory: /nowhere"),
    ],
)
def test_command_line_mistakes_end_with_status_2_and_a_message(tmp_path, capsys, arguments, message):
    assert build.main(["--dataset=folders", f"--out={tmp_path}", *arguments]) == 2
    assert message in capsys.readouterr().err
