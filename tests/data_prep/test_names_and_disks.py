"""What a user's names, text files, paths and disks may be: read right, or answered with a message and status 2."""

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_prep import build, builders, folders
from data_prep.verify import check as verify
from tests.data_prep import raw_trees
from tests.data_prep.raw_trees import picture, save, scene, somebody_else, truth
from uda_jax.data import labels, pipeline
from uda_jax.errors import UserError
from uda_jax.weights import convert as weights

NFD = unicodedata.normalize("NFD", "é")
VERIFY = ["--dataset=folders", "--workers=1", "--split"]
LATIN = os.fsdecode(b"caf\xe9")  # a name that is no UTF-8


@pytest.fixture
def photos(tmp_path) -> Path:
    return picture(tmp_path / "photos" / "a.png").parent


def build_folders(out: Path | str, split: str, *options: str) -> int:
    common = ["--dataset=folders", "--name=x", "--workers=1", f"--out={out}"]
    return build.main([*common, "--split", split, *options])


def stored(data: Path, name: str = "folders/x", split: str = "train") -> dict[str, dict]:
    found = tfds.as_numpy(pipeline.open_builder(str(data), name).as_dataset(split))
    return {example["id"].decode(): example for example in found}


# Names of files


def test_names_in_two_forms_of_unicode_are_one(tmp_path):
    picture(tmp_path / "raw" / "images" / f"{NFD}.png", 4)
    truth(tmp_path / "raw" / "labels" / "é.png", 4)
    assert build_folders(tmp_path, f"train={tmp_path / 'raw'}") == 0
    assert set(stored(tmp_path)) == {"é"}
    np.testing.assert_array_equal(stored(tmp_path)["é"]["label"][..., 0], scene("camera", 4)[1])
    assert verify.main(["--dataset=folders", f"--split=train={tmp_path / 'raw'}"]) == 0


def test_two_files_of_one_name_in_two_forms_of_unicode_are_refused(tmp_path, capsys):
    for name in (NFD, "é"):
        picture(tmp_path / "photos" / f"{name}.png")
    if len(list((tmp_path / "photos").iterdir())) == 1:
        pytest.skip("this file system knows one form only")
    for command in (lambda split: build_folders(tmp_path, split), lambda split: verify.main([*VERIFY, split])):
        assert command(f"train={tmp_path / 'photos'}") == 2
        assert "two forms of Unicode, composed and not" in capsys.readouterr().err


def test_names_that_are_no_utf8_are_stored_escaped(tmp_path, capsys):
    for seed, name in enumerate((LATIN, f"{LATIN}/b")):
        try:
            picture(tmp_path / "raw" / "images" / f"{name}.png", seed)
        except OSError:
            pytest.skip("this file system wants UTF-8")
        truth(tmp_path / "raw" / "labels" / f"{name}.png", seed)
    truth(tmp_path / "raw" / "labels" / f"spare{LATIN}.png")
    assert build_folders(tmp_path, f"train={tmp_path / 'raw'}") == 0
    assert "spare" in capsys.readouterr().out
    examples = stored(tmp_path)
    assert set(examples) == {r"caf\xe9", r"caf\xe9/b"}
    np.testing.assert_array_equal(examples[r"caf\xe9/b"]["image"], scene("camera", 1)[0])
    assert verify.main([*VERIFY, f"train={tmp_path / 'raw'}"]) == 0
    assert verify.main(["--dataset=folders/x", f"--data={tmp_path}"]) == 0


def test_names_and_classes_can_be_printed_on_any_terminal(tmp_path):
    for name in (LATIN, "é"):
        picture(tmp_path / "raw" / "images" / f"{name}.png")
        save(tmp_path / "raw" / "labels" / f"{name}.png", np.zeros(raw_trees.SIZE, np.uint8))
        truth(tmp_path / "raw" / "labels" / f"spare {name}.png")
        (tmp_path / "raw" / "images" / f"{name}.webp").touch()
    (tmp_path / "map.yaml").write_text("classes: [Bäume]\nids: {0: Bäume}", encoding="utf-8")
    code = (
        "import sys\nfrom data_prep import build\nfrom data_prep.verify import check as verify\n"
        "arguments = ['--dataset=folders', '--workers=1', *sys.argv[1:3]]\n"
        "print(build.main([*arguments, '--name=x', sys.argv[3]]), verify.main(arguments))"
    )
    arguments = [f"--split=train={tmp_path / 'raw'}", f"--label_map={tmp_path / 'map.yaml'}", f"--out={tmp_path}"]
    root = Path(build.__file__).parents[1]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", code, *arguments]
    run = subprocess.run(command, cwd=root, env=os.environ | ascii_only, capture_output=True)
    assert b"Traceback" not in run.stderr and run.stdout.splitlines()[-1] == b"0 0"
    assert b"webp" in run.stderr and rb"B\xe4ume" in run.stdout and b"spare" in run.stdout


# Text files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_ids_are_read_in_any_unicode_form(tmp_path, encoding):
    raw_trees.gta5(tmp_path / "raw")
    for kind in ("images", "labels"):
        (tmp_path / "raw" / kind / "00003.png").rename(tmp_path / "raw" / kind / f"{NFD}.png")
    for split, names in (("train", "00001  \r\n\r\n é\r\n"), ("val", f"{NFD}")):
        (tmp_path / f"{split}.txt").write_bytes(names.encode(encoding))
    lists = [f"--split={split}={tmp_path / split}.txt" for split in ("train", "val")]
    common = ["--dataset=gta5", f"--raw={tmp_path / 'raw'}", "--size=32x16", "--workers=1", f"--out={tmp_path}"]
    assert build.main([*common, *lists]) == 0
    assert set(stored(tmp_path, "gta5")) == {"00001", "é"} and set(stored(tmp_path, "gta5", "val")) == {"é"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("00001\né\n".encode("latin-1"), "list.txt is not in UTF-8"),
        ("00001\n".encode("utf-16-le"), "without a byte order mark"),
        (b"\n\r\n", "list.txt lists nothing"),
    ],
)
def test_lists_that_cannot_be_read_are_named(tmp_path, capsys, content, message):
    raw_trees.gta5(tmp_path / "raw", count=1)
    (tmp_path / "list.txt").write_bytes(content)
    arguments = ["--dataset=gta5", f"--raw={tmp_path / 'raw'}", f"--split=train={tmp_path / 'list.txt'}"]
    assert build.main([*arguments, f"--out={tmp_path / 'data'}"]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "data").exists()


def test_label_maps_are_read_in_any_unicode_form(tmp_path, capsys):
    picture(tmp_path / "raw" / "images" / "a.png")
    save(tmp_path / "raw" / "labels" / "a.png", np.full(raw_trees.SIZE, 7, np.uint8))
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "map.yaml").write_bytes("classes: [Bäume]\r\nids: {7: Bäume}\r\n".encode(encoding))
        options = (f"--label_map={tmp_path / 'map.yaml'}", "--overwrite")
        assert build_folders(tmp_path, f"train={tmp_path / 'raw'}", *options) == 0
        assert "100.00 %  Bäume" in capsys.readouterr().out
    (tmp_path / "map.yaml").write_bytes("classes: [Bäume]\nids: {7: Bäume}".encode("latin-1"))
    split = f"train={tmp_path / 'raw'}"
    for command in (
        lambda: build_folders(tmp_path, split, *options),
        lambda: verify.main([*VERIFY, split, options[0]]),
    ):
        assert command() == 2
        assert "map.yaml is not in UTF-8" in capsys.readouterr().err


# Names of splits


@pytest.mark.parametrize(
    "name", ["all", "ALL", "_", "train+val", "train[:10]", "a%", "a b", "", "tr/ain", "a.b", "x" * 151]
)
@pytest.mark.parametrize("dataset", ["folders", "gta5"])
def test_names_that_cannot_be_splits_are_refused(tmp_path, photos, capsys, dataset, name):
    options = ["--name=x"] if dataset == "folders" else [f"--raw={tmp_path}"]
    arguments = [f"--dataset={dataset}", *options, "--split", f"{name}={photos}", f"--out={tmp_path / 'data'}"]
    assert build.main(arguments) == 2
    error = capsys.readouterr().err
    assert f"--split {name}=...: " in error and ("letters, digits and '_'" in error or "longer than 150" in error)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["2024", "größe", "训练", "None", "x" * 150])
def test_names_that_tfds_finds_again_are_taken(tmp_path, photos, name):
    assert build_folders(tmp_path, f"{name}={photos}") == 0
    assert set(stored(tmp_path, split=name)) == {"a"}
    assert pipeline.describe(str(tmp_path), "folders/x", name)["count"] == 1


def test_a_list_given_twice_is_refused(tmp_path, capsys):
    arguments = [
        "--dataset=gta5",
        f"--raw={tmp_path}",
        "--split=a=x.txt",
        "--split=a=y.txt",
        f"--out={tmp_path / 'data'}",
    ]
    assert build.main(arguments) == 2
    assert "--split a is given twice" in capsys.readouterr().err


# Paths and disks


@pytest.mark.parametrize("address", ["gs://bucket/x", "s3://bucket/x", "gs:/bucket/x"])
def test_addresses_are_refused_by_every_option_and_nothing_is_written(tmp_path, photos, capsys, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    folder = ["--dataset=folders", f"--split=train={photos}"]
    commands = {
        "--out": (build, [*folder, "--name=x", f"--out={address}"]),
        "--out ": (build, ["--dataset=streets", f"--out={address}"]),
        "--raw": (build, ["--dataset=gta5", f"--raw={address}", "--out=data"]),
        "--split train": (build, ["--dataset=folders", "--name=x", f"--split=train={photos},{address}", "--out=data"]),
        "--split val": (build, ["--dataset=gta5", "--raw=.", f"--split=val={address}", "--out=data"]),
        "--label_map": (build, [*folder, "--name=x", f"--label_map={address}", "--out=data"]),
        "--raw ": (verify, ["--dataset=gta5", f"--raw={address}"]),
        "--data": (verify, ["--dataset=gta5", f"--data={address}"]),
        "--split a": (verify, ["--dataset=folders", f"--split=a={address}"]),
        "--json": (verify, [*folder, f"--json={address}"]),
        "--sheet": (verify, [*folder, f"--sheet={address}"]),
        "--label_map ": (verify, [*folder, f"--label_map={address}"]),
        "--from": (weights, [f"--from={address}.npz", "--to=x.npz"]),
        "--from ": (weights, [f"--from=torchvision:{address}.pth", "--to=x.npz"]),
        "--discriminator": (weights, ["--from=a.npz", "--to=b.npz", f"--discriminator={address}"]),
        "--to": (weights, ["--from=keras:ResNet50", f"--to={address}.npz"]),
    }
    for flag, (module, arguments) in commands.items():
        if module is weights and address.startswith("gs://"):
            continue  # which takes those, see tests/test_object_store.py
        assert module.main(arguments) == 2
        assert f"error: {flag.strip()}={address}" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"--config=.*only local paths"):
        weights.config_of_file(f"{address}.py")
    assert sorted(os.listdir(tmp_path)) == ["photos"]


PLACES = [
    pytest.param("{}/file", id="a file"),
    pytest.param("{}/file/below", id="below a file"),
    pytest.param("{}/" + "n" * 300, id="too long"),
    pytest.param("{}/a\0b", id="NUL"),
    pytest.param("", id="empty"),
    pytest.param(LATIN, id="no UTF-8"),
    pytest.param("/dev/null/x", id="below a device"),
    pytest.param("/proc/x", id="proc", marks=pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dataset", ["folders", "streets", "gta5"])
def test_places_that_cannot_be_written_are_answered_with_status_2(tmp_path, photos, capsys, dataset, place):
    (tmp_path / "file").write_text("kept")
    raw_trees.gta5(tmp_path / "raw", count=1)
    options = {
        "folders": ["--name=x", f"--split=train={photos}"],
        "streets": ["--train_images=1", "--val_images=1", "--size=32x16"],
        "gta5": [f"--raw={tmp_path / 'raw'}"],
    }
    arguments = [f"--dataset={dataset}", "--workers=1", *options[dataset], f"--out={place.format(tmp_path)}"]
    assert build.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert sorted(os.listdir(tmp_path)) == ["file", "photos", "raw"] and (tmp_path / "file").read_text() == "kept"


def test_a_name_that_is_too_long_leaves_nothing(tmp_path, photos, capsys):
    assert build_folders(tmp_path / "data", f"train={photos}", f"--name={'n' * 300}") == 2
    assert "File name too long. Nothing was kept. Choose another --out." in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_files_and_places_without_permission_are_named(capsys):
    with tempfile.TemporaryDirectory() as name:  # unlike pytest's, others may come here
        place = Path(name)
        place.chmod(0o755)
        good, closed = picture(place / "good" / "a.png"), picture(place / "bad" / "b.png")
        closed.chmod(0)
        (place / "open").mkdir()
        (place / "open").chmod(0o777)
        (place / "shut").mkdir(mode=0o555)
        with somebody_else():
            assert build_folders(place / "shut", f"train={good.parent}") == 2
            assert (
                f"error: {place / 'shut' / 'folders'} cannot be written: Permission denied" in capsys.readouterr().err
            )
            assert build_folders(place / "open", f"train={closed.parent}") == 2
            assert f"error: {closed} cannot be read: Permission denied. Nothing was kept." in capsys.readouterr().err
            assert verify.main([*VERIFY, f"train={closed.parent}"]) == 1
            assert "Permission denied" in capsys.readouterr().out
        assert os.listdir(place / "shut") == [] and os.listdir(place / "open" / "folders" / "x") == []


@pytest.mark.slow
def test_a_tilde_that_no_shell_expanded_is_the_home_directory_everywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    raw_trees.gta5(tmp_path / "home" / "raw", count=2)
    (tmp_path / "home" / "list.txt").write_text("00002\n")
    arguments = ["--dataset=gta5", "--raw=~/raw", "--split=train=~/list.txt", "--size=full", "--workers=1"]
    assert build.main([*arguments, "--out=~/data"]) == 0
    assert set(stored(tmp_path / "home" / "data", "gta5")) == set(stored(Path("~/data"), "gta5")) == {"00002"}
    split = "--split=train=~/raw/images,~/raw/labels"
    assert build.main(["--dataset=folders", "--name=x", split, "--label_map=gta5", "--out=~/data"]) == 0
    assert build.main(["--dataset=streets", "--size=32x16", "--train_images=1", "--val_images=1", "--out=~/data"]) == 0
    assert verify.main(["--dataset=folders/x", "--data=~/data", "--json=~/a.json", "--sheet=~/a.png"]) == 0
    assert verify.main(["--dataset=gta5", "--raw=~/raw"]) == 0
    assert os.listdir(tmp_path / "here") == [] and "~" not in capsys.readouterr().out
    left = sorted(path.name for path in (tmp_path / "home").glob("[!.]*"))  # others have caches there
    assert left == ["a.json", "a.png", "data", "list.txt", "raw"]


@pytest.mark.parametrize("option", ["--label_map=", "--json=", "--sheet="])
def test_options_without_a_value_are_refused(tmp_path, photos, capsys, option):
    arguments = ["--dataset=folders", f"--split=train={photos}", option]
    assert verify.main(arguments) == 2
    assert f"error: {option}: expected a path, found nothing" in capsys.readouterr().err
    if option == "--label_map=":
        assert build.main([*arguments, "--name=x", f"--out={tmp_path / 'data'}"]) == 2
        assert f"error: {option}: expected a path, found nothing" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["99999x99999", "1000001x1", "20000x20000"])
def test_sizes_that_nothing_could_read_are_refused(tmp_path, photos, capsys, size):
    assert build_folders(tmp_path / "data", f"train={photos}", f"--size={size}") == 2
    assert f"error: --size={size}: " in capsys.readouterr().err and not (tmp_path / "data").exists()


def test_a_directory_in_place_of_a_list_is_called_one(tmp_path, capsys):
    raw_trees.gta5(tmp_path / "raw", count=1)
    arguments = ["--dataset=gta5", f"--raw={tmp_path / 'raw'}", f"--split=train={tmp_path / 'raw'}"]
    assert build.main([*arguments, f"--out={tmp_path / 'data'}"]) == 2
    assert f"--split train={tmp_path / 'raw'}: a directory; expected a text file of ids" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["json", "sheet"])
@pytest.mark.parametrize(
    "place", [*PLACES[1:4], pytest.param("{}", id="a directory"), pytest.param("/dev/full", id="full")]
)
def test_reports_that_cannot_be_written_are_answered_with_status_2(tmp_path, photos, capsys, flag, place):
    (tmp_path / "file").write_text("kept")
    before = sorted(tmp_path.rglob("*"))
    assert verify.main([*VERIFY, f"train={photos}", f"--{flag}={place.format(tmp_path)}"]) == 2
    assert "error: " in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before and not list(tmp_path.parent.glob(".*.part"))


def test_a_report_may_go_to_a_device(tmp_path, photos):
    assert verify.main([*VERIFY, f"train={photos}", "--json=/dev/null"]) == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL, errno.EBADF])
def test_a_disk_without_locks_is_built_on_with_a_warning(tmp_path, photos, capsys, monkeypatch, number):
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    other = tmp_path / "folders" / "x" / f"{builders.SCRATCH}of-another-build"
    other.mkdir(parents=True)
    monkeypatch.setattr(fcntl, "flock", flock)
    assert build_folders(tmp_path, f"train={photos}") == 0
    assert "cannot be locked" in capsys.readouterr().err
    assert set(stored(tmp_path)) == {"a"} and other.is_dir()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EDQUOT, errno.EIO])
def test_what_a_disk_answers_while_records_are_written_is_said(tmp_path, number):
    class Refusing(builders.SceneBuilder):
        """Fails like such a disk."""

        def _generate_examples(self, split):
            raise OSError(number, os.strerror(number), str(tmp_path / "set" / "x.tfrecord"))
            yield split

    plan = builders.Plan({"train": []}, {}, labels.NAMES)
    with pytest.raises(UserError, match=rf"x.tfrecord cannot be written: {os.strerror(number)}. Nothing was kept"):
        builders.write(lambda scratch: Refusing(data_dir=scratch, plan=plan), tmp_path / "set" / "1.0.0")
    assert list((tmp_path / "set").iterdir()) == []


def test_one_picture_is_enough(tmp_path, photos):
    folders.build(tmp_path, "x", {"train": (photos, None), "val": (photos, None)})
    assert set(stored(tmp_path)) == set(stored(tmp_path, split="val")) == {"a"}
