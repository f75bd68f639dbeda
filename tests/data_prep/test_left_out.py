"""Nothing in a folder is dropped or taken in silence: what a build takes, says and refuses, and that verify agrees."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_prep import build
from data_prep.left_out import FAULT, KINDS, NOTE, WARNING
from data_prep.verify import check as verify
from tests.data_prep import raw_trees
from tests.data_prep.raw_trees import picture, save, scene, somebody_else, truth
from uda_jax.data import pipeline

COMMON = {"count", "unusual-size", "missing-class", "single-class", "unlike-streets"}  # of every small tree


def file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"anything")
    return path


def link(path: Path, to: Path | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(to)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    """root/images and root/labels: scenes 0 and 1 of the street generator."""
    for k in range(2):
        picture(tmp_path / "root" / "images" / f"{k}.png", k)
        truth(tmp_path / "root" / "labels" / f"{k}.png", k)
    return tmp_path / "root"


def folder_split(*places: Path) -> list[str]:
    return ["--dataset=folders", "--split", f"train={','.join(map(str, places))}"]


def made(tmp_path: Path, arguments: list[str]) -> tuple[int, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """The exit status of a build, and what it stored: id -> (image, label) of all splits."""
    out = tmp_path / "data"
    shutil.rmtree(out, ignore_errors=True)
    name = arguments[0].partition("=")[2]
    status = build.main(
        [*arguments, *(["--name=x"] if name == "folders" else []), f"--out={out}", "--size=full", "--workers=1"]
    )
    if status:
        return status, {}
    builder = pipeline.open_builder(str(out), "folders/x" if name == "folders" else name)
    found = [example for split in builder.info.splits for example in tfds.as_numpy(builder.as_dataset(split))]
    return 0, {example["id"].decode(): (example["image"], example["label"][..., 0]) for example in found}


def verified(tmp_path: Path, arguments: list[str]) -> tuple[int, dict[str, tuple[str, list[str]]]]:
    """The exit status of verify, and its findings: kind -> (severity, files)."""
    target = tmp_path / "report.json"
    status = verify.main([*arguments, "--workers=1", f"--json={target}"])
    found = json.loads(target.read_text())["findings"]
    named = {f["kind"]: (f["severity"], [place["file"] for place in f["places"]]) for f in found}
    return status, {kind: found for kind, found in named.items() if kind not in COMMON}


def check(tmp_path: Path, capsys, arguments: list[str], kind: str, files: list[Path], ids: set[str]) -> None:
    """A build stores these ids and names these files as this kind, and so does verify, which finds nothing else."""
    status, stored = made(tmp_path, arguments)
    error = capsys.readouterr().err
    assert status == 0 and set(stored) == ids
    assert f"{KINDS[kind].severity}: {len(files)} {KINDS[kind].what}" in error
    assert all(str(path) in error for path in files) or not KINDS[kind].listed
    assert verified(tmp_path, arguments) == (0, {kind: (KINDS[kind].severity, [str(path) for path in files])})


def refused(tmp_path: Path, capsys, arguments: list[str], kind: str, files: list[Path]) -> None:
    """A build names these files, with the way out, and stores nothing; verify calls them a fault."""
    assert made(tmp_path, arguments)[0] == 2 and not (tmp_path / "data").exists()
    error = capsys.readouterr().err
    assert f"error: {len(files)} {KINDS[kind].what}" in error and KINDS[kind].advice in error
    assert all(str(path) in error for path in files)
    status, found = verified(tmp_path, arguments)
    assert status == 1 and found[kind] == (FAULT, [str(path) for path in files])


# Links


def test_linked_folders_are_followed(root, tmp_path, capsys):
    for kind, pixels in (("images", scene("camera", 7)[0]), ("labels", scene("camera", 7)[1])):
        save(tmp_path / "far" / kind / "7.png", pixels)
        link(root / kind / "linked", tmp_path / "far" / kind)
    status, stored = made(tmp_path, folder_split(root))
    assert status == 0 and set(stored) == {"0", "1", "linked/7"}
    for pixels, expected in zip(stored["linked/7"], scene("camera", 7), strict=True):
        np.testing.assert_array_equal(pixels, expected)
    assert "warning" not in capsys.readouterr().err
    assert verified(tmp_path, folder_split(root)) == (0, {})


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("gta5", "images"),
        ("synthia", "RAND_CITYSCAPES"),
        ("synthia", "RAND_CITYSCAPES/RGB"),
        ("cityscapes", "leftImg8bit/val"),
        ("cityscapes", "leftImg8bit/train/ulm"),
        ("visda17", "labels"),
    ],
)
def test_linked_folders_of_published_sets_are_followed_and_dangling_ones_refused(tmp_path, capsys, name, place):
    written = raw_trees.WRITERS[name](tmp_path / "raw")
    arguments = [f"--dataset={name}", f"--raw={tmp_path / 'raw'}"]
    (tmp_path / "raw" / place).rename(tmp_path / "far")
    link(tmp_path / "raw" / place, tmp_path / "far")
    status, stored = made(tmp_path, arguments)
    assert status == 0 and set(stored) == {key for scenes in written.values() for key in scenes}
    assert verified(tmp_path, arguments) == (0, {})
    (tmp_path / "far").rename(tmp_path / "gone")
    for module in (build, verify):
        assert module.main([*arguments, *([f"--out={tmp_path / 'o'}"] if module is build else [])]) in (1, 2)
        output = "".join(capsys.readouterr())
        assert str(tmp_path / "raw" / place) in output and "Traceback" not in output


def test_a_linked_part_of_gta5_is_followed_and_a_dangling_one_refused(tmp_path, capsys):
    raw_trees.gta5(tmp_path / "far", count=2)
    arguments = ["--dataset=gta5", f"--raw={tmp_path / 'raw'}"]
    link(tmp_path / "raw" / "01", tmp_path / "far")
    assert set(made(tmp_path, arguments)[1]) == {"00001", "00002"}
    capsys.readouterr()
    lost = link(tmp_path / "raw" / "02", "nowhere")
    refused(tmp_path, capsys, arguments, "not-there", [lost])
    (tmp_path / "far").rename(tmp_path / "gone")
    assert made(tmp_path, arguments)[0] == 2
    error = capsys.readouterr().err
    assert "has no directory 'images'" in error and str(lost) in error and str(lost.with_name("01")) in error


def test_a_link_to_a_folder_that_it_lies_in_is_not_followed(root, tmp_path, capsys):
    loop = link(root / "images" / "town" / "up", "..")
    check(tmp_path, capsys, folder_split(root), "link-loop", [loop], {"0", "1"})


def test_a_folder_that_is_reached_twice_is_named(root, tmp_path, capsys):
    picture(root / "images" / "town" / "2.png", 2)
    link(root / "images" / "village", "town")
    assert set(made(tmp_path, folder_split(root / "images"))[1]) == {"0", "1", "town/2", "village/2"}
    assert f"{KINDS['linked-twice'].what}:\n  {root / 'images' / 'village'}" in capsys.readouterr().err
    found = verified(tmp_path, folder_split(root / "images"))[1]
    assert found["linked-twice"] == (WARNING, [str(root / "images" / "village")])


@pytest.mark.parametrize("name", ["2.png", "2.JPG", "2.webp", "town", "2024.05"])
@pytest.mark.parametrize("kind", ["images", "labels"])
def test_links_to_nowhere_are_refused(root, tmp_path, capsys, kind, name):
    lost = link(root / kind / name, tmp_path / "not-fetched" / name)
    refused(tmp_path, capsys, folder_split(root), "not-there", [lost])


def test_links_to_themselves_and_pipes_are_refused(root, tmp_path, capsys):
    lost = [link(root / "images" / "2.png", "2.png"), root / "images" / "3.png"]
    os.mkfifo(lost[1])
    refused(tmp_path, capsys, folder_split(root), "not-there", lost)


def test_where_all_links_lead_nowhere_that_is_said(tmp_path, capsys):
    for k in range(7):
        link(tmp_path / "photos" / f"{k}.png", f"../.git/annex/objects/{k}")
    arguments = folder_split(tmp_path / "photos")
    for command in (lambda: made(tmp_path, arguments)[0], lambda: verify.main(arguments)):
        assert command() == 2
        error = capsys.readouterr().err
        assert "no images found" in error and "git annex get" in error
        assert f"7 {KINDS['not-there'].what}" in error and "6.png" not in error and "... and 2 more" in error


def test_links_to_nowhere_that_are_no_pictures_do_not_matter(root, tmp_path, capsys):
    lost = link(root / "images" / "readme.txt", "nowhere")
    check(tmp_path, capsys, folder_split(root), "other-file", [lost], {"0", "1"})


def test_folders_that_cannot_be_listed_are_refused(capsys):
    with tempfile.TemporaryDirectory() as name:  # unlike pytest's, others may come here
        place = Path(name)
        place.chmod(0o777)
        picture(place / "images" / "0.png")
        closed = place / "images" / "closed"
        closed.mkdir(mode=0)
        try:
            with somebody_else():
                refused(place, capsys, folder_split(place), "unlistable-folder", [closed])
                assert verify.main(folder_split(closed)) == 2
                assert f"{closed}/images cannot be looked into: Permission denied" in capsys.readouterr().err
        finally:
            closed.chmod(0o755)


# Files that are no scenes


HIDDEN = [".ipynb_checkpoints/0-checkpoint.png", ".Trash-1000/files/a.png", "._0.png", "@eaDir/0.jpg", "__MACOSX/0.png"]


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_pictures_are_left_out_and_named(root, tmp_path, capsys, name):
    file(root / "images" / ".DS_Store")
    check(tmp_path, capsys, folder_split(root), "hidden", [file(root / "images" / name)], {"0", "1"})


def test_a_hidden_part_of_gta5_is_left_out_and_named(tmp_path, capsys):
    raw_trees.gta5(tmp_path / "raw" / "01", count=2)
    hidden = file(tmp_path / "raw" / ".Trash" / "images" / "00009.png").parent
    check(tmp_path, capsys, ["--dataset=gta5", f"--raw={tmp_path / 'raw'}"], "hidden", [hidden], {"00001", "00002"})


def test_a_set_in_a_hidden_folder_is_read(root, tmp_path, capsys):
    root = root.rename(tmp_path / ".cache")
    assert set(made(tmp_path, folder_split(root))[1]) == {"0", "1"}
    assert verified(tmp_path, folder_split(root)) == (0, {})


@pytest.mark.parametrize("name", ["0_mask.png", "1_gtFine_labelIds.png", "labels/0.png", "9_labelTrainIds.png"])
def test_masks_among_images_are_left_out_and_named(root, tmp_path, capsys, name):
    mask = truth(root / "images" / name)
    check(tmp_path, capsys, folder_split(root / "images"), "mask-among-images", [mask], {"0", "1"})


def test_pictures_that_only_might_be_masks_are_taken_and_named(root, tmp_path, capsys):
    photo = picture(root / "images" / "venice_mask.png", 3)
    check(tmp_path, capsys, folder_split(root / "images"), "named-like-label", [photo], {"0", "1", "venice_mask"})


def test_a_picture_that_has_a_label_of_its_own_is_a_scene_whatever_its_name(root, tmp_path, capsys):
    names = ["0_color", "seg_1", "mask", "labels/0"]
    for k, name in enumerate(names):
        picture(root / "images" / f"{name}.jpg", 2 + k)
        truth(root / "labels" / f"{name}.png", 2 + k)
    status, stored = made(tmp_path, folder_split(root))
    assert status == 0 and set(stored) == {"0", "1", *names}
    for k, name in enumerate(names):
        np.testing.assert_array_equal(stored[name][1], scene("camera", 2 + k)[1])
    assert "left out" not in capsys.readouterr().err
    assert verified(tmp_path, folder_split(root)) == (0, {})


def test_labels_in_a_folder_among_the_images_are_labels_where_they_are_named(root, tmp_path, capsys):
    (root / "labels").rename(root / "images" / "truth")
    arguments = folder_split(root / "images", root / "images" / "truth")
    stored = made(tmp_path, arguments)[1]
    assert set(stored) == {"0", "1"}
    np.testing.assert_array_equal(stored["1"][1], scene("camera", 1)[1])
    assert "warning" not in capsys.readouterr().err
    assert verified(tmp_path, arguments) == (0, {})


@pytest.mark.parametrize("name", ["{}_labelTrainIds.png", "{}_color.png"])
@pytest.mark.parametrize("dataset", ["gta5", "synthia", "visda17", "folders"])
def test_what_other_projects_leave_beside_labels_is_left_out_and_named(root, tmp_path, capsys, dataset, name):
    place, arguments = root / "labels", folder_split(root)
    if dataset != "folders":
        raw_trees.WRITERS[dataset](tmp_path / "raw")
        place = tmp_path / "raw" / ("RAND_CITYSCAPES/GT/LABELS" if dataset == "synthia" else "labels")
        arguments = [f"--dataset={dataset}", f"--raw={tmp_path / 'raw'}"]
    before = made(tmp_path, arguments)[1]
    capsys.readouterr()
    extra = [truth(place / name.format(path.stem), 8) for path in sorted(place.iterdir())]
    check(tmp_path, capsys, arguments, "companion", extra, set(before))
    after = made(tmp_path, arguments)[1]
    for key, (_, label) in before.items():
        np.testing.assert_array_equal(after[key][1], label)


def test_what_cityscapes_is_known_to_hold_is_not_mentioned(tmp_path, capsys):
    raw_trees.cityscapes(tmp_path / "raw")
    arguments = ["--dataset=cityscapes", f"--raw={tmp_path / 'raw'}"]
    place = tmp_path / "raw" / "gtFine" / "train" / "ulm" / "ulm_000001_000019_gtFine"
    for ending in ("labelTrainIds", "instanceTrainIds"):
        truth(place.with_name(f"{place.name}_{ending}.png"))
    assert made(tmp_path, arguments)[0] == 0
    assert not {"warning", "note"} & set(capsys.readouterr().err.replace(":", " ").split())
    assert verified(tmp_path, arguments) == (0, {})
    strange = [picture(tmp_path / "raw" / "leftImg8bit" / "train" / "ulm" / "x.png"), truth(place.with_name("y.png"))]
    check(tmp_path, capsys, arguments, "other-name", strange, set(made(tmp_path, arguments)[1]))


@pytest.mark.parametrize("suffix", [".webp", ".tif", ".TIFF", ".bmp", ".jp2", ".gif", ".jfif", ".heic"])
def test_pictures_of_other_formats_are_named(root, tmp_path, capsys, suffix):
    other = file(root / "images" / f"2{suffix}")
    check(tmp_path, capsys, folder_split(root), "other-format", [other], {"0", "1"})
    assert f"1 {suffix.lower()}" in capsys.readouterr().out


def test_a_folder_of_other_formats_says_so(tmp_path, capsys):
    file(tmp_path / "photos" / "2.webp")
    assert made(tmp_path, folder_split(tmp_path / "photos"))[0] == 2
    error = capsys.readouterr().err
    assert "no images found" in error and "1 .webp" in error and "Convert them" in error


def test_labels_that_are_no_png_are_named(root, tmp_path, capsys):
    other = picture(root / "labels" / "0.jpg")
    check(tmp_path, capsys, folder_split(root), "label-format", [other], {"0", "1"})
    for path in (root / "labels").glob("*.png"):
        path.unlink()
    assert made(tmp_path, folder_split(root))[0] == 2
    error = capsys.readouterr().err
    assert "looked for .png," in error and str(other) in error and "JPEG has changed the ids" in error


def test_other_files_are_summed_up_in_one_line(root, tmp_path, capsys):
    names = ("a.txt", "b.txt", "c.json", "images.zip", "Makefile")
    others = sorted(file(root / "images" / name) for name in names)
    assert made(tmp_path, folder_split(root))[0] == 0
    assert "note: 5 other files left out: 2 .txt, 1 Makefile, 1 .json, 1 .zip\n" in capsys.readouterr().err
    assert verified(tmp_path, folder_split(root)) == (0, {"other-file": (NOTE, [str(path) for path in others])})


def test_pictures_beside_the_folder_of_images_are_named(root, tmp_path, capsys):
    spare = [picture(root / "2.png", 2), picture(root / "more" / "3.png", 3)]
    check(tmp_path, capsys, folder_split(root), "beside-images", spare, {"0", "1"})
    assert verified(tmp_path, folder_split(root / "images", root / "labels")) == (0, {})


def test_further_places_of_published_sets_are_named(tmp_path, capsys):
    for name, place in (("gta5", "old/images"), ("cityscapes", "leftImg8bit/more"), ("visda17", "test/images")):
        written = raw_trees.WRITERS[name](tmp_path / name)
        further = file(tmp_path / name / place / "x.png").parent
        ids = {key for scenes in written.values() for key in scenes}
        check(tmp_path, capsys, [f"--dataset={name}", f"--raw={tmp_path / name}"], "unused-folder", [further], ids)


@pytest.mark.parametrize(
    ("name", "place", "kind"),
    [
        ("gta5", "more/part/images/00009.png", "unused-folder"),
        ("gta5", "Images/00009.png", "unused-folder"),
        ("gta5", "00009.PNG", "beside-images"),
        ("synthia", "RGB/0000009.png", "unused-folder"),
        ("synthia", "RAND_CITYSCAPES/RGB2/0000009.png", "unused-folder"),
        ("synthia", "RAND_CITYSCAPES/GT/parsed_LABELS/0000009.png", "unused-folder"),
        ("cityscapes", "more/x.png", "unused-folder"),
        ("cityscapes", "gtFine/Train/x_gtFine_labelIds.png", "unused-folder"),
        ("visda17", "more/x.jpg", "unused-folder"),
        ("visda17", "x.jpg", "beside-images"),
    ],
)
def test_pictures_beside_the_folders_of_published_sets_are_named(tmp_path, capsys, name, place, kind):
    written = raw_trees.WRITERS[name](tmp_path / "raw")
    path = picture(tmp_path / "raw" / place)
    at = {"RAND_CITYSCAPES/RGB2": 2, "RAND_CITYSCAPES/GT": 3, "gtFine/Train": 2}
    depth = next((n for start, n in at.items() if place.startswith(start)), 1)
    left = (tmp_path / "raw").joinpath(*Path(place).parts[:depth])
    ids = {key for scenes in written.values() for key in scenes}
    check(tmp_path, capsys, [f"--dataset={name}", f"--raw={tmp_path / 'raw'}"], kind, [left], ids)
    assert path.is_file()


def test_what_published_sets_may_hold_besides_is_not_mentioned(tmp_path, capsys):
    places = {
        "gta5": ["readme.txt", ".cache/x.png"],
        "synthia": ["RAND_CITYSCAPES/Depth/0000001.png", "RAND_CITYSCAPES/GT/COLOR/0000001.png"],
        "cityscapes": [
            "gtCoarse/train/x.png",
            "leftImg8bit_sequence/train/x.png",
            "disparity/x.png",
            "gtFine/test/x.png",
        ],
    }
    for name, files in places.items():
        written = raw_trees.WRITERS[name](tmp_path / name)
        for place in files:
            file(tmp_path / name / place)
        arguments = [f"--dataset={name}", f"--raw={tmp_path / name}"]
        assert set(made(tmp_path, arguments)[1]) == {key for scenes in written.values() for key in scenes}
        assert "left out" not in capsys.readouterr().err
        assert verified(tmp_path, arguments) == (0, {})


def test_labels_of_cityscapes_without_the_folder_of_their_images_are_named(tmp_path, capsys):
    written = raw_trees.cityscapes(tmp_path / "raw")
    shutil.rmtree(tmp_path / "raw" / "leftImg8bit" / "val")
    ids = {key for split in ("train", "test") for key in written[split]}
    arguments = ["--dataset=cityscapes", f"--raw={tmp_path / 'raw'}"]
    check(tmp_path, capsys, arguments, "empty-folder", [tmp_path / "raw" / "leftImg8bit" / "val"], ids)


def test_a_split_of_cityscapes_without_images_is_named(tmp_path, capsys):
    written = raw_trees.cityscapes(tmp_path / "raw")
    shutil.rmtree(tmp_path / "raw" / "leftImg8bit" / "val" / "munster")
    ids = {key for split in ("train", "test") for key in written[split]}
    arguments = ["--dataset=cityscapes", f"--raw={tmp_path / 'raw'}"]
    check(tmp_path, capsys, arguments, "empty-folder", [tmp_path / "raw" / "leftImg8bit" / "val"], ids)
