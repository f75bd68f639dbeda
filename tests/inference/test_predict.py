"""`python -m uda_jax.predict`: from a checkpoint alone, with whatever lies in the folder, and nothing is lost."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.inference.test_predictor import picture
from uda_jax.data import labels
from uda_jax.inference.model import load_model
from uda_jax.predict import main
from uda_jax.weights.arrays import read_arrays, write_arrays


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sizes, one held sideways, one below another folder; and what is no picture."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    Image.fromarray(picture(32, 64)).save(tmp_path / "in" / "a.png")
    Image.fromarray(picture(48, 64)).save(tmp_path / "in" / "deep" / "b.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(32, 64)).save(tmp_path / "in" / "turned.jpg", exif=exif)
    (tmp_path / "in" / "no.jpg").write_bytes(b"\xff\xd8 nothing")
    (tmp_path / "in" / "notes.txt").write_text("not looked at")
    return tmp_path / "in"


def opened(path: Path) -> Image.Image:
    with Image.open(path) as file:
        file.load()
        return file


def predict(checkpoint: Path, given: Path, out: Path, *flags: str) -> int:
    return main([f"--checkpoint={checkpoint}", f"--input={given}", f"--out={out}", *flags])


def test_a_folder_without_data_or_labels(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder.parent / "out"
    assert predict(run, folder, out) == 2
    said = capsys.readouterr()
    assert "1 of 4 pictures could not be used" in said.err and "no.jpg: cannot be read as a picture" in said.err
    assert "source_only after 2 steps, 19 classes, scored at 64x32" in said.out
    assert "64x48 is looked at as 64x48, the scale that the model was scored at" in said.err + said.out
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert written == sorted(
        f"{kind}/{name}{suffix}"
        for kind, suffix in (("labels", ".png"), ("color", ".png"), ("overlay", ".jpg"))
        for name in ("a", "deep/b", "turned")
    )
    ids = np.asarray(opened(out / "labels" / "a.png"))
    expected = np.asarray(load_model(run).segmenter.predict(picture(32, 64)))
    assert np.mean(ids == expected) > 0.999
    colors = np.asarray(opened(out / "color" / "a.png"))
    np.testing.assert_array_equal(colors, labels.palette()[ids])
    np.testing.assert_array_equal(np.asarray(opened(out / "labels" / "a.png").convert("RGB")), colors)
    assert opened(out / "labels" / "turned.png").size == (32, 64)  # upright
    overlay = opened(out / "overlay" / "a.jpg")
    assert overlay.width == 64 and overlay.height > 32  # the legend


def test_files_and_runs_say_the_same(run: Path, exported: Path, tmp_path: Path) -> None:
    Image.fromarray(picture(32, 64)).save(tmp_path / "a.png")
    assert predict(run, tmp_path / "a.png", tmp_path / "run", "--write=labels") == 0
    assert predict(exported, tmp_path / "a.png", tmp_path / "file", "--write=labels,confidence,entropy") == 0
    one, other = (np.asarray(opened(tmp_path / d / "labels" / "a.png")) for d in ("run", "file"))
    np.testing.assert_array_equal(one, other)
    p = np.asarray(load_model(exported).segmenter.probabilities(picture(32, 64)))
    sure = np.asarray(opened(tmp_path / "file" / "confidence" / "a.png"))
    np.testing.assert_allclose(sure, 255 * p.max(-1), atol=0.6)
    assert (tmp_path / "file" / "entropy" / "a.png").exists()


def test_nothing_is_overwritten_unless_told(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        Image.fromarray(picture(32, 64)).save(tmp_path / "in" / f"{name}.png")
    mine = tmp_path / "out" / "labels" / "b.png"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert predict(exported, tmp_path / "in", tmp_path / "out", "--write=labels") == 2
    assert "b.png is there already (1 of the files to write are); nothing was written" in capsys.readouterr().err
    assert not (tmp_path / "out" / "labels" / "a.png").exists()
    assert predict(exported, tmp_path / "in", tmp_path / "out", "--write=labels", "--existing=skip") == 0
    assert mine.read_text() == "mine"
    assert (tmp_path / "out" / "labels" / "a.png").exists()
    assert predict(exported, tmp_path / "in", tmp_path / "out", "--write=labels", "--existing=overwrite") == 0
    assert opened(mine).size == (64, 32)


def test_what_the_servers_expect(exported: Path, tmp_path: Path) -> None:
    name = "berlin_000000_000019_leftImg8bit"
    (tmp_path / "in" / "berlin").mkdir(parents=True)
    Image.fromarray(picture(32, 64)).save(tmp_path / "in" / "berlin" / f"{name}.png")
    assert predict(exported, tmp_path / "in", tmp_path / "a", "--layout=cityscapes") == 0
    assert predict(exported, tmp_path / "in", tmp_path / "b", "--layout=visda17_adaptation") == 0
    ids = np.asarray(opened(tmp_path / "a" / f"{name}.png"))
    train_ids = np.asarray(load_model(exported).segmenter.predict(picture(32, 64)))
    of = {c.train_id: c.cityscapes_id for c in labels.CLASSES}
    assert np.mean(ids == np.vectorize(of.get)(train_ids)) > 0.999
    challenge = opened(tmp_path / "b" / "adaptation_pred_dir" / f"{name}.png")
    assert (challenge.size, challenge.mode) == ((1280, 720), "P")
    assert set(np.unique(np.asarray(challenge))) <= set(range(19))


def test_ids_of_a_label_map(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture(32, 64)).save(tmp_path / "a.png")
    entries = ", ".join(f"{100 + c.train_id}: {c.name}, {200 + c.train_id}: {c.name}" for c in labels.CLASSES)
    mine = tmp_path / "map.yaml"
    mine.write_text(f"classes: [{', '.join(labels.NAMES)}]\nids: {{{entries}}}\n")
    assert predict(exported, tmp_path / "a.png", tmp_path / "out", "--write=labels", f"--ids={mine}") == 0
    ids = np.asarray(opened(tmp_path / "out" / "labels" / "a.png"))
    train_ids = np.asarray(load_model(exported).segmenter.predict(picture(32, 64)))
    assert np.mean(ids == 100 + train_ids) > 0.999
    mine.write_text("classes: [road, car]\nids: {1: road, 2: car}\n")
    assert predict(exported, tmp_path / "a.png", tmp_path / "other", f"--ids={mine}") == 2
    assert "has no id for sidewalk, building" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_ids_that_the_run_was_built_from(exported: Path, tmp_path: Path) -> None:
    arrays, about = read_arrays(exported)
    write_arrays(tmp_path / "own.npz", arrays, about | {"ids": {name: 7 + i for i, name in enumerate(labels.NAMES)}})
    Image.fromarray(picture(32, 64)).save(tmp_path / "a.png")
    assert predict(tmp_path / "own.npz", tmp_path / "a.png", tmp_path / "out", "--write=labels", "--ids=own") == 0
    ids = np.asarray(opened(tmp_path / "out" / "labels" / "a.png"))
    assert np.mean(ids == 7 + np.asarray(load_model(exported).segmenter.predict(picture(32, 64)))) > 0.999


def test_predicting_needs_no_tensorflow() -> None:
    """Nor the time that it takes to start."""
    check = "import sys, uda_jax.predict; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_two_pictures_of_one_name(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(picture(32, 64)).save(tmp_path / "in" / "a.png")
    Image.fromarray(picture(32, 64)).save(tmp_path / "in" / "a.jpg")
    assert predict(exported, tmp_path / "in", tmp_path / "out") == 2
    assert "a.jpg and a.png would both become" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--write=label"], "'label' is not one of labels, color"),
        (["--layout=cityscapes", "--write=overlay"], "has label maps alone"),
        (["--window=12"], "expected WIDTHxHEIGHT"),
        (["--scale=-1"], "expected numbers above 0"),
        (["--ids=own"], "does not say what ids its data had"),
        (["--step=1"], "is a file and holds one step"),
        (["--batch=0"], "--batch=0"),
    ],
)
def test_flags_that_cannot_work(
    exported: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(picture(32, 64)).save(tmp_path / "a.png")
    assert predict(exported, tmp_path / "a.png", tmp_path / "out", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nothing_to_look_at(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert predict(exported, tmp_path / "empty", tmp_path / "out") == 2
    assert "empty: holds no picture" in capsys.readouterr().err
    assert predict(exported, tmp_path / "gone", tmp_path / "out") == 2
    assert "there is no such file or folder" in capsys.readouterr().err
    assert predict(tmp_path / "gone", tmp_path / "empty", tmp_path / "out") == 2
    assert predict(tmp_path, exported, tmp_path / "out") == 2


def test_checkpoints_that_are_none(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(picture(32, 64)).save(tmp_path / "a.png")
    np.savez(tmp_path / "bare.npz", **{"conv1.weight": np.zeros((4, 3, 7, 7), np.float32)})
    for checkpoint, message in (
        (tmp_path / "gone", "there is no"),
        (tmp_path, "is no training run"),
        (tmp_path / "bare.npz", "does not say what model it holds"),
    ):
        assert predict(checkpoint, tmp_path / "a.png", tmp_path / "out") == 2
        assert message in capsys.readouterr().err


def test_deep_pictures_are_refused_by_name(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """16 bits a channel: Pillow would clip them without a word."""
    Image.fromarray(np.full((32, 64), 40_000, np.uint16)).save(tmp_path / "deep.png")
    assert predict(exported, tmp_path / "deep.png", tmp_path / "out") == 2
    assert "deep.png: stores I;16 values" in capsys.readouterr().err


def test_videos_come_and_go(exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "in.mp4"), "w") as sink:
        stream = sink.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        for seed in range(5):
            sink.mux(stream.encode(av.VideoFrame.from_ndarray(picture(32, 64, seed), format="rgb24")))
        sink.mux(stream.encode())
    assert predict(exported, tmp_path / "in.mp4", tmp_path / "out") == 0
    with av.open(str(tmp_path / "out" / "in_overlay.mp4")) as source:
        frames = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
        assert source.streams.video[0].average_rate == 10
    assert len(frames) == 5
    assert len({frame.shape for frame in frames}) == 1 and frames[0].shape[0] > 32
    assert predict(exported, tmp_path / "in.mp4", tmp_path / "out") == 2
    assert "is there already" in capsys.readouterr().err
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    assert predict(exported, tmp_path / "bad.mp4", tmp_path / "out") == 2
    assert "cannot be read as a video" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["in_overlay.mp4"]
