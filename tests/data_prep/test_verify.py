"""data_prep.verify: clean sets pass, and every planted fault is found, named and alone."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.verify import check as verify
from data_prep.verify import ids, scan, sheet
from data_prep.verify.rules import FAULT, NOTE, WARNING
from data_prep.verify.scan import Item
from tests.data_prep import raw_trees
from tests.data_prep.raw_trees import SIZE, WRITERS, raw_ids, save, scene
from uda_jax.data import labels

EXPECTED = {"count", "unusual-size", "missing-class"}  # of a tree that is only small


def run(directory: Path, *arguments: str | Path) -> tuple[int, dict[str, dict]]:
    """The exit status, and the findings of the JSON file by kind."""
    target = directory / "report.json"
    status = verify.main([*map(str, arguments), f"--json={target}"])
    report = json.loads(target.read_text())
    assert report["status"] == status
    found = {finding["kind"]: finding for finding in report["findings"]}
    assert len(found) == len(report["findings"])
    return status, found


def surprising(found: dict[str, dict]) -> dict[str, tuple[str, list[str]]]:
    """Kind -> (severity, files), without what every small tree gives."""
    return {
        kind: (finding["severity"], [place["file"] for place in finding["places"]])
        for kind, finding in found.items()
        if kind not in EXPECTED
    }


def pictures(root: Path, split: str = "train", count: int = 3, seed: int = 0) -> Path:
    """root/split/{images,labels}: street scenes as folders of train ids."""
    for k in range(count):
        image, label = scene("camera", seed + k)
        save(root / split / "images" / f"{k}.png", image)
        save(root / split / "labels" / f"{k}.png", label)
    return root / split


@pytest.mark.parametrize("name", WRITERS)
def test_a_clean_set_has_no_fault_and_a_subset_is_only_a_warning(tmp_path, capsys, name):
    WRITERS[name](tmp_path)
    status, found = run(tmp_path, f"--dataset={name}", f"--raw={tmp_path}", f"--sheet={tmp_path / 'sheet.png'}")
    assert status == 0 and surprising(found) == {}
    assert found["count"]["severity"] == found["unusual-size"]["severity"] == WARNING
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width == 4 * sheet.WIDTH
    report = capsys.readouterr().out
    assert "road" in report and "0 faults" in report


def test_a_subset_is_a_fault_where_the_set_should_be_complete(tmp_path):
    WRITERS["gta5"](tmp_path)
    status, found = run(tmp_path, "--dataset=gta5", f"--raw={tmp_path}", "--complete")
    assert status == 1 and found["count"]["severity"] == FAULT
    assert found["count"]["what"] == "train: 3 of 24,966 images"


def test_splits_that_are_not_there_are_counted_too(tmp_path):
    WRITERS["cityscapes"](tmp_path)
    shutil.rmtree(tmp_path / "leftImg8bit" / "test")
    _, found = run(tmp_path, "--dataset=cityscapes", f"--raw={tmp_path}")
    assert "val: 2 of 500 images, test: 0 of 1,525 images" in found["count"]["what"]


# Faults: a function plants each below a clean GTA5 tree and returns the files that must be named.


def truncate(path: Path) -> list[Path]:
    path.write_bytes(path.read_bytes()[:-200])
    return [path]


def _flip(path: Path) -> list[Path]:
    encoded = bytearray(path.read_bytes())
    encoded[len(encoded) // 2] ^= 1
    path.write_bytes(encoded)
    return [path]


def _remove(path: Path, named: Path) -> list[Path]:
    path.unlink()
    return [named]


def _write(path: Path, content: bytes) -> list[Path]:
    path.write_bytes(content)
    return [path]


def _value(path: Path, value: int, pixels: int = 20) -> list[Path]:
    label = np.asarray(Image.open(path)).copy()
    label.flat[:pixels] = value
    return [save(path, label)]


def _soft_colors(path: Path) -> list[Path]:
    """A coloured label picture that was resized smoothly."""
    picture = Image.fromarray(labels.palette()[scene("rendered", 2)[1]])
    picture.resize((80, 40), Image.Resampling.BICUBIC).resize((64, 32)).save(path)
    return [path]


def _shrink(path: Path) -> list[Path]:
    Image.open(path).resize((32, 16), Image.Resampling.NEAREST).save(path)
    return [path]


IMAGE, LABEL = Path("images/00002.png"), Path("labels/00002.png")
TRAIN_IDS = scene("rendered", 2)[1]
PLANTS: dict[str, tuple[Callable[[Path], list[Path]], str, str]] = {
    "a missing label": (lambda r: _remove(r / LABEL, r / IMAGE), "image-without-label", FAULT),
    "a missing image": (lambda r: _remove(r / IMAGE, r / LABEL), "label-without-image", FAULT),
    "a truncated image": (lambda r: truncate(r / IMAGE), "unreadable-image", FAULT),
    "a truncated label": (lambda r: truncate(r / LABEL), "unreadable-label", FAULT),
    "a flipped bit in an image": (lambda r: _flip(r / IMAGE), "unreadable-image", FAULT),
    "a flipped bit in a label": (lambda r: _flip(r / LABEL), "unreadable-label", FAULT),
    "an empty file": (lambda r: _write(r / IMAGE, b""), "unreadable-image", FAULT),
    "a web page": (lambda r: _write(r / LABEL, b"<html>Please log in</html>"), "unreadable-label", FAULT),
    "train ids": (lambda r: [save(r / LABEL, TRAIN_IDS)], "wrong-ids", FAULT),
    "SYNTHIA ids": (lambda r: [save(r / LABEL, raw_ids(TRAIN_IDS, "synthia", 0))], "wrong-ids", FAULT),
    "interpolated colours": (lambda r: _soft_colors(r / LABEL), "coloured-label", FAULT),
    "an unknown id": (lambda r: _value(r / LABEL, 77), "unknown-ids", FAULT),
    "a label of another size": (lambda r: [r / IMAGE] * bool(_shrink(r / LABEL)), "different-sizes", WARNING),
    "a black image": (lambda r: [save(r / IMAGE, np.zeros((*SIZE, 3), np.uint8))], "blank-image", WARNING),
    "a label of nothing": (lambda r: _value(r / LABEL, 0, 32 * 64), "ignored-label", WARNING),
    "a label of one class": (lambda r: _value(r / LABEL, 7, 32 * 64), "single-class", NOTE),
    "an alpha channel": (
        lambda r: [save(r / IMAGE, np.dstack([scene("rendered", 2)[0], np.full(SIZE, 255, np.uint8)]))],
        "stored-form",
        NOTE,
    ),
    "a grey image": (lambda r: [save(r / IMAGE, scene("rendered", 2)[0][..., 0])], "stored-form", NOTE),
    "an image of 16 bits": (
        lambda r: [raw_trees.save_16_bit(r / IMAGE, 257 * scene("rendered", 2)[0].astype(np.uint16))],
        "stored-form",
        NOTE,
    ),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_found_and_nothing_else(tmp_path, plant):
    function, kind, severity = PLANTS[plant]
    WRITERS["gta5"](tmp_path)
    files = function(tmp_path)
    status, found = run(tmp_path, "--dataset=gta5", f"--raw={tmp_path}")
    assert surprising(found) == {kind: (severity, [str(path) for path in files])}
    assert status == (severity == FAULT)
    assert found[kind]["what"] and found[kind]["advice"]


def test_every_faulty_file_is_listed_not_only_the_first(tmp_path, capsys):
    WRITERS["gta5"](tmp_path, count=8)
    bad = [truncate(tmp_path / "images" / f"{k:05}.png")[0] for k in range(2, 8)]
    _, found = run(tmp_path, "--dataset=gta5", f"--raw={tmp_path}", "--show=4")
    assert surprising(found) == {"unreadable-image": (FAULT, [str(path) for path in bad])}
    report = capsys.readouterr().out
    assert "6 of 8 images cannot be read" in report and "... and 2 more" in report
    assert str(bad[3]) in report and str(bad[4]) not in report


def test_what_the_file_holds_is_said(tmp_path):
    WRITERS["gta5"](tmp_path)
    _value(tmp_path / LABEL, 77)
    _, found = run(tmp_path, "--dataset=gta5", f"--raw={tmp_path}")
    assert found["unknown-ids"]["places"][0]["remark"] == "77 (0.98 % of the pixels)"
    save(tmp_path / LABEL, TRAIN_IDS)
    _, found = run(tmp_path, "--dataset=gta5", f"--raw={tmp_path}")
    assert "these look like Cityscapes train ids, not Cityscapes labelIds" in found["wrong-ids"]["what"]


def test_labels_that_differ_in_size_are_a_fault_in_sets_without_such(tmp_path):
    WRITERS["synthia"](tmp_path)
    image, label = (tmp_path / "RAND_CITYSCAPES" / part / "0000001.png" for part in ("RGB", "GT/LABELS"))
    save(label, raw_ids(scene("rendered", 1)[1], "synthia", 0)[:16])
    status, found = run(tmp_path, "--dataset=synthia", f"--raw={tmp_path}")
    assert status == 1 and surprising(found) == {"different-sizes": (FAULT, [str(image)])}
    assert found["different-sizes"]["places"][0]["remark"] == "64x32, its label 64x16"


def test_synthia_pictures_in_place_of_labels_and_labels_cut_to_8_bits_are_found(tmp_path):
    WRITERS["synthia"](tmp_path)
    base = tmp_path / "RAND_CITYSCAPES" / "GT"
    colored = shutil.copy(base / "COLOR" / "0000000.png", base / "LABELS" / "0000000.png")
    status, found = run(tmp_path, "--dataset=synthia", f"--raw={tmp_path}")
    assert status == 1 and surprising(found) == {"coloured-label": (FAULT, [str(colored)])}
    for path in (base / "LABELS").iterdir():
        Image.open(path).convert("RGB").point(lambda value: 0).save(path)
    status, found = run(tmp_path, "--dataset=synthia", f"--raw={tmp_path}")
    assert status == 1 and list(surprising(found)) == ["ignored-label"]
    assert found["ignored-label"]["severity"] == FAULT and len(found["ignored-label"]["places"]) == 3


def test_a_picture_in_two_splits_is_a_fault_and_twice_in_one_a_warning(tmp_path):
    WRITERS["cityscapes"](tmp_path)
    pictures = sorted((tmp_path / "leftImg8bit").rglob("*.png"))
    leaked = next(path for path in pictures if "train" in path.parts)
    scored = [path for path in pictures if "val" in path.parts]
    Image.open(leaked).save(scored[0], compress_level=0)  # the same picture in another encoding
    status, found = run(tmp_path, "--dataset=cityscapes", f"--raw={tmp_path}")
    assert status == 1 and surprising(found) == {"duplicate-between-splits": (FAULT, [str(leaked)])}
    assert str(scored[0]) in found["duplicate-between-splits"]["places"][0]["remark"]
    shutil.copy(scored[1], scored[0])
    status, found = run(tmp_path, "--dataset=cityscapes", f"--raw={tmp_path}")
    assert status == 0 and surprising(found) == {"duplicate": (WARNING, [str(scored[0])])}


# Folders


def test_folders_of_train_ids_pass_and_label_ids_are_recognised(tmp_path):
    root = pictures(tmp_path)
    assert run(tmp_path, "--dataset=folders", f"--split=train={root}")[0] == 0
    for kind in ("cityscapes", "synthia"):
        for k in range(3):
            save(root / "labels" / f"{k}.png", raw_ids(scene("camera", k)[1], kind, 0))
        status, found = run(tmp_path, "--dataset=folders", f"--split=train={root}")
        assert status == 1 and list(surprising(found)) == ["wrong-ids"]
        assert f"these look like {ids.TABLES[kind]}" in found["wrong-ids"]["what"]
        assert f'id_table("{kind}")' in found["wrong-ids"]["advice"]
        mapped = run(tmp_path, "--dataset=folders", f"--split=train={root}", f"--label_map={kind}")
        assert mapped[0] == 0 and surprising(mapped[1]) == {}


def test_folders_with_classes_of_their_own_are_judged_by_their_label_map(tmp_path):
    root = pictures(tmp_path)
    rows = [f'  "{", ".join(map(str, c.color))}": {"way" if c.train_id < 2 else "rest"}' for c in labels.CLASSES]
    (tmp_path / "map.yaml").write_text("\n".join(["classes: [way, rest]", "colors:", '  "0, 0, 0": ignore', *rows]))
    for k in range(3):
        save(root / "labels" / f"{k}.png", labels.palette()[scene("camera", k)[1]])
    arguments = ("--dataset=folders", f"--split=train={root}", f"--label_map={tmp_path / 'map.yaml'}")
    status, found = run(tmp_path, *arguments)
    assert status == 0 and surprising(found) == {}
    colors = labels.palette()[scene("camera", 1)[1]]
    colors[0, :8] = 1, 2, 3
    path = save(root / "labels" / "1.png", colors)
    status, found = run(tmp_path, *arguments)
    assert status == 1 and surprising(found) == {"unknown-ids": (FAULT, [str(path)])}
    assert found["unknown-ids"]["places"][0]["remark"].startswith("#010203 (0.39 %")


def test_spare_labels_and_odd_sizes_of_folders_are_no_faults(tmp_path):
    root = pictures(tmp_path)
    spare = save(root / "labels" / "spare.png", TRAIN_IDS)
    image, label = (scene("camera", 9, (16, 32))[k] for k in (0, 1))
    odd = save(root / "images" / "odd.png", image)
    save(root / "labels" / "odd.png", label)
    status, found = run(tmp_path, "--dataset=folders", f"--split=train={root}")
    assert status == 0 and surprising(found) == {"label-without-image": (WARNING, [str(spare)])}
    assert found["unusual-size"]["severity"] == NOTE
    assert found["unusual-size"]["places"] == [{"file": str(odd), "remark": "32x16"}]


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_camera_held_upright_is_noted_and_its_label_fits_the_turned_image(tmp_path, name):
    image, label = scene("camera", 0, (64, 32))
    exif = Image.Exif()
    exif[0x0112] = 8  # stored lying on its side
    stored = Image.fromarray(image).transpose(Image.Transpose.ROTATE_270)
    (tmp_path / "images").mkdir()
    stored.save(tmp_path / "images" / name, exif=exif)
    save(tmp_path / "labels" / "a.png", label)
    status, found = run(tmp_path, "--dataset=folders", f"--split=train={tmp_path}")
    assert status == 0 and surprising(found) == {"stored-form": (NOTE, [str(tmp_path / "images" / name)])}
    assert "EXIF orientation 8" in found["stored-form"]["what"]


ODDITIES = {
    "CMYK": ("a.jpg", "CMYK", {"quality": 90}, {"CMYK"}),
    "palette": ("a.png", "P", {}, {"palette"}),
    "transparent palette": ("a.png", "P", {"transparency": 0}, {"palette", "alpha"}),
    "another name than format": ("a.png", "RGB", {"format": "JPEG"}, {"JPEG named .png"}),
    "nothing": ("a.JPG", "RGB", {"format": "JPEG"}, set()),
}


@pytest.mark.parametrize("case", ODDITIES)
def test_how_an_image_is_stored_is_told_from_its_header(tmp_path, case):
    name, mode, options, expected = ODDITIES[case]
    path = tmp_path / name
    Image.fromarray(scene("camera", 0)[0]).convert(mode).save(path, **options)
    assert set(scan.oddities(path.read_bytes(), path.suffix)) == expected


@pytest.mark.parametrize("name", ["Straße Nr. 1", os.fsdecode(b"caf\xe9")], ids=["unicode", "undecodable"])
def test_names_of_any_kind_are_printed(tmp_path, capsys, name):
    root = pictures(tmp_path, count=1)
    save(root / "labels" / f"{name}.png", TRAIN_IDS)
    shown = f"--sheet={tmp_path / 'sheet.png'}"
    bad = root / "images" / f"{name}.png"
    bad.write_bytes(b"no image")
    save(root / "images" / f"{name} 2.png", scene("camera", 5)[0])
    save(root / "labels" / f"{name} 2.png", scene("camera", 5)[1])
    status, found = run(tmp_path, "--dataset=folders", f"--split=train={root}", shown)
    assert status == 1 and surprising(found) == {"unreadable-image": (FAULT, [str(bad)])}
    assert "no image" in capsys.readouterr().out and (tmp_path / "sheet.png").is_file()


def test_a_sample_is_even_repeatable_and_said_to_be_one(tmp_path):
    root = pictures(tmp_path, count=9)
    truncate(root / "images" / "4.png")
    truncate(root / "images" / "5.png")
    runs = [run(tmp_path, "--dataset=folders", f"--split=train={root}", "--limit=3") for _ in range(2)]
    assert runs[0] == runs[1]
    status, found = runs[0]
    assert status == 1 and [place["file"] for place in found["unreadable-image"]["places"]] == [
        str(root / "images" / "4.png")
    ]
    assert found["sample"]["what"] == "3 of 9 scenes were read"


def test_processes_find_what_one_process_finds(tmp_path):
    root = pictures(tmp_path, count=scan.FEW + 1)
    _flip(root / "images" / "7.png")
    arguments = ("--dataset=folders", f"--split=train={root}")
    single = run(tmp_path, *arguments, "--workers=1")
    assert run(tmp_path, *arguments, "--workers=2") == single
    assert surprising(single[1]) == {"unreadable-image": (FAULT, [str(root / "images" / "7.png")])}


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_no_damage_stops_the_reading(tmp_path, suffix):
    root = pictures(tmp_path, count=1)
    good = io.BytesIO()
    Image.fromarray(scene("camera", 0)[0]).save(good, "PNG" if suffix == ".png" else "JPEG")
    spec = verify._folders(verify._parser().parse_args(["--dataset=folders", f"--split=train={root}"]))[0]
    rng = np.random.default_rng(0)
    path = root / "images" / f"0{suffix}"
    for _ in range(60):
        encoded = bytearray(good.getvalue())
        for at in rng.integers(0, len(encoded), 3):
            encoded[at] = rng.integers(0, 256)
        path.write_bytes(encoded[: rng.integers(1, len(encoded) + 1)] if rng.random() < 0.3 else encoded)
        facts = scan.scan(spec, Item("train", "0", path, root / "labels" / "0.png"))
        assert facts.label_size == SIZE and not facts.label_error
        if suffix == ".png" and path.read_bytes() != good.getvalue():
            assert facts.image_error  # checksums leave nothing unseen


# What cannot run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset=gta5"], "--raw=DIR"),
        (["--dataset=gta5", "--raw=/nowhere", "--data=x"], "with --raw and --data"),
        (["--dataset=gta5", "--raw=/nowhere"], "/nowhere"),
        (["--dataset=kitti", "--raw=/nowhere"], "one of gta5, synthia, cityscapes, visda17"),
        (["--dataset=folders"], "--split NAME=DIR"),
        (["--dataset=folders", "--split=a"], "--split a: expected"),
        (["--dataset=folders", "--split=a=/nowhere"], "no such directory: /nowhere"),
        (["--dataset=gta5", "--data=/nowhere"], "no prepared dataset 'gta5'"),
        (["--dataset=gta5", "--raw=/nowhere", "--limit=-1"], "--limit=-1: expected 0 or more"),
        (["--dataset=gta5", "--raw=/nowhere", "--workers=0"], "--workers=0: expected 1 or more"),
    ],
)
def test_mistakes_of_the_command_line_end_with_status_2(capsys, arguments, message):
    assert verify.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_report_that_cannot_be_written_ends_with_status_2(tmp_path, capsys):
    root = pictures(tmp_path, count=1)
    (tmp_path / "file").write_text("")
    assert verify.main(["--dataset=folders", f"--split=train={root}", f"--json={tmp_path / 'file' / 'x.json'}"]) == 2
    assert "error: " in capsys.readouterr().err
