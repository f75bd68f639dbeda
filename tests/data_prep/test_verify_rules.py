"""What verify concludes from many scenes, and its contact sheet."""

import numpy as np
import pytest

from data_prep.verify import check as verify
from data_prep.verify import ids, rules, scan, sheet
from data_prep.verify.rules import FAULT, WARNING
from data_prep.verify.scan import Facts
from tests.data_prep.raw_trees import raw_ids, scene
from uda_jax.data import labels


def _facts(classes: dict[str, float], count: int = 100) -> list[Facts]:
    ids = {**dict(zip(labels.NAMES, range(19), strict=True)), "ignored": labels.IGNORE}
    pixels = {ids[name]: round(1e6 * share) for name, share in classes.items()}
    return [Facts("train", str(k), f"{k}.png", f"{k}.png", classes=pixels) for k in range(count)]


def _published(name: str) -> dict[str, float]:
    shares = {n: s / 100 for n, s in zip(labels.NAMES, ids.SHARES[name], strict=True) if s}
    return {**shares, "ignored": 1 - sum(shares.values())}


@pytest.mark.parametrize("name", ids.SHARES)
def test_published_shares_are_as_expected_and_others_are_not(name):
    spec = verify.spec_of(verify.RAW_SETS[name])
    right = _published(name)
    assert list(rules.shares(spec, _facts(right))) == []
    scarce = {**right, "building": right["building"] / 4, "ignored": right["ignored"] + 3 / 4 * right["building"]}
    (off,) = rules.shares(spec, _facts(scarce))
    assert off.kind == "class-shares" and off.what.count("published ") == 2 and "building" in off.what
    assert list(rules.shares(spec, _facts(scarce, count=10))) == []  # too few to compare
    (missing,) = rules.shares(spec, _facts({n: s for n, s in right.items() if n != "bus"}))
    assert missing.kind == "missing-class" and missing.what.endswith(": bus") and missing.severity == WARNING


def test_mostly_ignored_pixels_and_unlikely_classes_are_warnings():
    spec = verify.spec_of(verify.RAW_SETS["visda17"])
    found = rules.shares(spec, _facts({"ignored": 0.6, "road": 0.4}))
    assert [f.kind for f in found] == ["ignored-share", "missing-class"]
    found = rules.shares(spec, _facts({"car": 0.9, "road": 0.1}))
    assert [f.kind for f in found] == ["unlike-streets", "missing-class"]


def test_few_strange_labels_among_many_are_only_a_warning():
    spec = verify.spec_of(verify.RAW_SETS["gta5"])
    facts = _facts(_published("gta5"), count=100)
    facts[3] = facts[3]._replace(mistaken="train")
    assert [f.severity for f in rules.wrong_ids(spec, facts)] == [WARNING]
    assert [f.severity for f in rules.wrong_ids(spec, facts[:20])] == [FAULT]


@pytest.mark.parametrize("true", ids.TABLES)
@pytest.mark.parametrize("domain", ["rendered", "camera"])
def test_ids_are_told_apart_file_by_file(true, domain):
    for seed in range(12):
        stored = raw_ids(scene(domain, seed)[1], true, {"train": 255}.get(true, 0))
        bands = [scan.histogram(rows) for rows in np.array_split(stored, ids.BANDS)]
        pixels = {value: tuple(band.get(value, 0) for band in bands) for value in np.unique(stored).tolist()}
        for expected in labels.TABLES:
            same = true == expected or (true, expected) == ("cityscapes", "gta5")
            assert ids.mistaken_for(pixels, expected) == ("" if same else true)


# The contact sheet


def test_the_overlay_shows_class_colours_and_leaves_ignored_pixels():
    image = np.full((4, 6, 3), 100, np.uint8)
    train_ids = np.full((2, 3), 255, np.uint8)
    train_ids[0, 0] = 13
    over = sheet.overlay(image, train_ids, labels.NAMES)
    car = np.array(labels.CLASSES[13].color)
    np.testing.assert_array_equal(over[:2, :2], np.broadcast_to((0.4 * 100 + 0.6 * car).round(), (2, 2, 3)))
    assert (over[2:] == 100).all() and (over[:, 2:] == 100).all()


def test_evenly_takes_the_ends_and_no_item_twice():
    assert sheet.evenly(range(10), 4) == [0, 3, 6, 9]
    assert sheet.evenly(range(3), 7) == [0, 1, 2]
    assert sheet.evenly(range(5), 1) == [0]
    for count in range(2, 9):
        assert len(set(sheet.evenly(range(9), count))) == count
