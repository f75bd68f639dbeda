"""data_prep.label_map: files of ids and colours -> train ids of any classes."""

import json

import numpy as np
import pytest

from data_prep import label_map
from tests.data_prep.raw_trees import raw_ids, save, save_16_bit, save_palette, scene
from uda_jax.data import labels
from uda_jax.errors import UserError

TEXT = """
classes: [road, "no", Bäume]
ids: {7: road, 8: 0, 26: "no", 21: Bäume, 0: ignore, 1: 255}
colors: {"#804080": road, "0, 0, 142": "no"}
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "map.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return file


def test_ids_and_colours_become_train_ids(path, tmp_path):
    found = label_map.load(str(path))
    assert found.classes == ("road", "no", "Bäume")
    ids = save(tmp_path / "ids.png", np.array([[7, 8, 26], [21, 0, 1]], np.uint8))
    assert label_map.read_train_ids(ids, found).tolist() == [[0, 0, 1], [2, 255, 255]]
    colors = save(tmp_path / "colors.png", np.array([[(128, 64, 128), (0, 0, 142)]], np.uint8))
    train_ids = label_map.read_train_ids(colors, found)
    assert train_ids.tolist() == [[0, 1]] and train_ids.dtype == np.uint8


def test_values_that_are_not_listed(path, tmp_path):
    ids = save(tmp_path / "ids.png", np.array([[7, 99, 98]], np.uint8))
    with pytest.raises(UserError, match=r"ids.png has label values 98, 99: .*'other: ignore'"):
        label_map.read_train_ids(ids, label_map.load(str(path)))
    colors = save(tmp_path / "colors.png", np.array([[(1, 2, 3)]], np.uint8))
    with pytest.raises(UserError, match=r"colors.png has label colours \(1, 2, 3\)"):
        label_map.read_train_ids(colors, label_map.load(str(path)))
    path.write_text(TEXT + "other: ignore\n", encoding="utf-8")
    assert label_map.read_train_ids(ids, label_map.load(str(path))).tolist() == [[0, 255, 255]]


def test_grey_colour_files_hold_ids_unless_their_colours_are_listed(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text('classes: [a, b]\nids: {7: b}\ncolors: {"0, 0, 0": a}')
    grey = save(tmp_path / "grey.png", np.full((2, 2, 3), 7, np.uint8))
    black = save(tmp_path / "black.png", np.zeros((2, 2, 3), np.uint8))
    found = label_map.load(str(path))
    assert (label_map.read_train_ids(grey, found) == 1).all()
    assert (label_map.read_train_ids(black, found) == 0).all()


def test_json_is_read_too(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"classes": ["a"], "ids": {"3": "a"}}))
    assert label_map.load(str(path)).ids == {3: 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [a]", "expected 'classes', and 'ids' or 'colors'"),
        ("- a", "expected 'classes', and 'ids' or 'colors'"),
        ("classes: [a\nids: {}", "is not valid YAML"),
        ("classes: []\nids: {1: a}", "expected a list of names"),
        ("classes: [a]\nids:\nother: ignore", "has no entry"),
        ("classes: [a]\nids: {}\ncolors: {}", "has no entry"),
        ("classes: [a, no]\nids: {1: a}", "in quotes where YAML sees no text"),
        ("classes: [a, a]\nids: {1: a}", "expected different names"),
        ("classes: [a, ignore]\nids: {1: a}", "none of them 'ignore'"),
        (
            "classes: [road]\nids: {1: raod}",
            "'raod' is neither one of the classes road nor ignore; did you mean 'road'",
        ),
        ("classes: [a]\nids: {1: 1}", "1 is neither one of the classes"),
        ("classes: [a]\nids: {1: true}", "True is neither one of the classes"),
        ("classes: [a]\nids: {x: a}", "'x' is no whole number"),
        ("classes: [a]\nids: [1]", "expected entries such as 7: road"),
        ('classes: [a]\ncolors: {"#80408": a}', "'#80408', expected"),
        ('classes: [a]\ncolors: {"1, 2, 256": a}', 'expected "#804080"'),
        ("classes: [a]\nids: {1: a}\nother: a", "other: 'a', expected ignore"),
        ("classes: [a]\nids: {1: }", "ids: 1: None is neither"),
        ("classes: [a]\nids: {1: 0.0}", "ids: 1: 0.0 is neither"),
        ("classes: [a]\nids: {7.5: a}", "ids: 7.5 is no whole number"),
        ("classes: [a]\nids: {7.0: a}", "ids: 7.0 is no whole number"),
        ("classes: [a]\nids: {0x10: a}", "ids: '0x10' is no whole number"),
        ("classes: [a]\nids: {yes: a}", "ids: True is no whole number"),
        ("classes: [a, b]\nids: {1: off}", "ids: 1: False is neither"),
        ("classes: [a]\nids: {2147483648: a}", "ids: 2147483648 is beyond what label files hold"),
        ("classes: [a]\nids: 0", "ids: 0, expected entries"),
        ("classes: [a]\nids: {1: 2020-13-13}", "is not valid YAML: month must be"),
        ("classes: [a]\nids: {1: a}\nother: 255.0", "other: 255.0, expected ignore"),
        ("classes: [a, b]\nids:\n  7: a\n  7: b", r"7 is given twice \(a in line 3, b in line 4\)"),
        ("classes: [a, b]\nids: {7: a, '7': b}", "ids: 7 and '7' are the same; remove one"),
        ("classes: [a]\nids: {010: a, 10: a}", "ids: '010' and 10 are the same"),
        ('{"classes": ["a"], "ids": {"1": "a", "1": 255}}', r"'1' is given twice \(a in line 1, 255 in line 1\)"),
        (
            'classes: [a]\ncolors: {"#804080": a, "128, 64, 128": a}',
            "colors: '#804080' and '128, 64, 128' are the same",
        ),
        ("classes: [a]\nclasses: [b]\nids: {1: a}", r"'classes' is given twice \(.*line 1, .*line 2\)"),
        ("classes: [a]\nids: {1: a}\nids: {2: a}", r"'ids' is given twice \(.*line 2, .*line 3\)"),
        ("classes: [a]\nids: {1: a}\ncolours: {}", "unknown entry 'colours', .*did you mean 'colors'"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"(?s)map.yaml.*{message}"):
        label_map.load(str(path))


def test_numbers_are_read_as_they_look(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text('classes: [010, b]\nids: {010: b, 007: 0, -1: ignore, "12": 010}')
    found = label_map.load(str(path))
    assert found.classes == ("010", "b") and found.ids == {10: 1, 7: 0, -1: 255, 12: 0}


def test_too_many_classes(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text(json.dumps({"classes": [f"c{i}" for i in range(256)], "ids": {}}))
    with pytest.raises(UserError, match="256 classes, but train ids end at 254"):
        label_map.load(str(path))


def test_a_missing_file_names_the_published_maps():
    with pytest.raises(UserError, match=r"--label_map=nowhere.yaml: no such file.*cityscapes, gta5, synthia, train"):
        label_map.load("nowhere.yaml")


@pytest.mark.parametrize("name", ["cityscapes", "gta5", "synthia", "train"])
def test_published_maps(tmp_path, name):
    truth = scene("camera", 1)[1]
    ids = raw_ids(truth, name, 255 if name == "train" else 0)
    found = label_map.load(name)
    assert found.classes == labels.NAMES
    path = tmp_path / "a.png"
    if name == "synthia":
        save_16_bit(path, np.stack([ids, ids, ids], axis=-1))
    else:
        save_palette(path, ids, labels.TRAIN if name == "train" else labels.CITYSCAPES[1:])
    np.testing.assert_array_equal(label_map.read_train_ids(path, found), truth)
    if name != "synthia":
        save(path, labels.palette()[truth])  # a picture in the colours of Cityscapes
        np.testing.assert_array_equal(label_map.read_train_ids(path, found), truth)


def test_a_map_of_colours_alone_refuses_ids(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text('classes: [a]\ncolors: {"1, 2, 3": a}')
    with pytest.raises(UserError, match=r"ids.png holds ids, but .*map.yaml lists colours alone"):
        label_map.read_train_ids(save(tmp_path / "ids.png", np.zeros((2, 2), np.uint8)), label_map.load(str(path)))
