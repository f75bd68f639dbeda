"""benchmarks.pipeline and benchmarks.readers: that the readers do the same work, and what is made of their times."""

import json
import os
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import pipeline, readers
from data_prep import folders
from data_prep.pictures import encode_image
from data_prep.streets import generate

SIZE = (32, 64)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """images/ and labels/ of three scenes of twice SIZE, and the same as folders/pictures."""
    root = tmp_path_factory.mktemp("pictures")
    for kind in ("images", "labels"):
        (root / kind).mkdir()
    for number in range(3):
        image, label = generate("rendered", number, (64, 128))
        (root / "images" / f"{number}.png").write_bytes(encode_image(image, "png"))
        (root / "labels" / f"{number}.png").write_bytes(encode_image(label, "png"))
    folders.build(root, "pictures", {"train": (root / "images", root / "labels")})
    return root


def options(pictures: Path) -> Namespace:
    files = {"images": pictures / "images", "labels": pictures / "labels", "data": str(pictures)}
    flags = {"dct_scaling": False, "unlabelled": False, "size": SIZE, "batch_size": 2, "dataset": "folders/pictures"}
    return Namespace(**files, **flags)


def test_readers_do_the_same_work(pictures):
    ours, theirs = readers.our_batches(options(pictures)), readers.pillow_batches(options(pictures))
    scenes = [np.asarray(image) for _ in range(3) for image in next(theirs)[0]]
    for _ in range(3):
        batch = next(ours)
        assert batch["image"].shape == (2, *SIZE, 3)
        assert batch["label"].shape == (2, *SIZE) and batch["label"].dtype == np.int32
        for image in np.asarray(batch["image"]).astype(int):
            nearest = min(np.abs(image - scene[:, ::step]).mean() for scene in scenes for step in (1, -1))
            assert nearest < 1  # the filters of TensorFlow and Pillow round differently
    image, label = next(theirs)
    assert image.shape == (2, *SIZE, 3) and image.dtype == np.uint8
    assert label.shape == (2, *SIZE) and label.dtype == np.int32


def test_a_reader_answers_every_line_and_ends_with_its_input(pictures):
    command = [sys.executable, readers.__file__, "pillow", "--size=64x32", "--batch_size=2"]
    files = [f"--images={pictures / 'images'}", f"--labels={pictures / 'labels'}"]
    done = subprocess.run([*command, *files], input="0.1\n0.2\n", capture_output=True, text=True, timeout=60)
    ready, *answers = done.stdout.splitlines()
    assert (done.returncode, done.stderr, ready) == (0, "", "ready")
    assert len(answers) == 2
    for seconds, answer in zip((0.1, 0.2), map(json.loads, answers), strict=True):
        assert answer["seconds"] >= seconds and answer["images"] >= 2 and answer["images"] % 2 == 0
        assert 0 < answer["cpu_seconds"] < 2 * answer["seconds"] and answer["peak_memory"] > 2**24


def test_the_table_has_medians_and_paired_ratios():
    contestants = [pipeline.Contestant("uda_jax", "png"), pipeline.Contestant("torch", "raw png")]
    contestants.append(pipeline.Contestant("torch", "png"))
    rounds = [
        [{"images": n, "seconds": 2, "cpu_seconds": 4, "peak_memory": 2**30} for n in images]
        for images in ((40, 10, 20), (10, 5, 5), (90, 10, 30))
    ]
    row = pipeline.table(contestants, rounds).splitlines()[2]
    assert row == "| png | uda_jax | 20.0 | 5.0, 45.0 | 10.0 | 2.00 | 1.00 | 2.00 | 4.00 |"


def test_a_version_of_before_gets_a_column():
    contestants = [pipeline.Contestant("uda_jax", "png"), pipeline.Contestant("before", "png")]
    rounds = [[{"images": n, "seconds": 2, "cpu_seconds": 4, "peak_memory": 2**30} for n in (30, 20)]]
    head, line, row, _ = pipeline.table(contestants, rounds).splitlines()
    assert head.endswith("| x before |") and row.endswith("| 1.50 |")
    assert head.count("|") == line.count("|") == row.count("|")


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_slow_reads_are_slow_below_a_directory_alone(tmp_path):
    environment = os.environ | pipeline.slow_reads(tmp_path, 50)
    (tmp_path / "file").write_text("x")
    code = f"import time; t = time.time(); open('{tmp_path}/file', 'rb', 0).read(1); s = time.time()"
    code += f"; open('{__file__}', 'rb', 0).read(1); print(s - t, time.time() - s)"
    slow, fast = map(float, subprocess.check_output([sys.executable, "-c", code], env=environment).split())
    assert slow > 0.05 > fast


def test_a_python_that_cannot_be_run_is_refused_before_anything_is_drawn(tmp_path, capsys):
    data = tmp_path / "data"
    assert pipeline.main([f"--data={data}", "--domain=source", "--torch_python=/no/python"]) == 2
    assert "--torch_python=/no/python: cannot be run" in capsys.readouterr().err
    assert not data.exists()


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path, capsys):
    options = ["--domain=target", "--images=2", "--rounds=1", "--seconds=0.1", "--readers", "uda_jax", "pillow"]
    assert pipeline.main([f"--data={tmp_path}", *options, "--storages", "raw jpeg"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| raw jpeg")]
    assert [row[1] for row in rows] == ["uda_jax", "pillow", "uda_jax, DCT scaling", "pillow, DCT scaling"]
    assert all(float(row[2]) > 0 for row in rows)
