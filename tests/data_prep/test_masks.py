"""data_prep.masks: which pictures are label maps, by their names alone."""

import time

import pytest

from data_prep import masks

PAIRS = [  # a photograph, and its label map as one tool or another names it
    ("0001", "0001_mask"),
    ("0001", "0001-label"),
    ("0001", "0001.gt"),
    ("0001", "0001_labelIds"),
    ("0001", "0001_labelTrainIds"),
    ("0001", "0001_instanceIds"),
    ("0001", "0001_color"),
    ("0001", "0001_GT_color_mask"),
    ("0001", "0001_mask_12"),
    ("0001", "0001_mask3"),
    ("0001", "0001_train_id"),
    ("0001", "mask_0001"),
    ("image_0001", "label_0001"),
    ("0001_img", "0001_seg"),
    ("0006R0_f00930", "0006R0_f00930_L"),
    ("ADE_train_00000001", "ADE_train_00000001_parts_1"),
    ("aachen_000000_000019_leftImg8bit", "aachen_000000_000019_gtFine_color"),
    ("GOPR0475_frame_000247_rgb_anon", "GOPR0475_frame_000247_gt_labelColor"),
    ("town/0001", "town/0001_annotation"),
    ("0001", "labels/0001"),
    ("rgb/0001", "masks/0001_mask"),
    ("town/rgb/0001", "town/gtFine/0001"),
    ("Images/0001", "SegmentationS/0001"),
    ("JPEGImages/0001", "SegmentationClass/0001"),
    ("JPEGImages/0001", "SegmentationClassRaw/0001"),
    ("img/0001", "masks_machine/0001"),
    ("image_2/0001", "semantic_rgb/0001"),
    ("rgb/0001", "depth/0001"),
]


@pytest.mark.parametrize(("photo", "label"), PAIRS)
def test_a_label_map_is_told_by_the_picture_beside_it(photo, label):
    assert masks.among({photo, label, "other"}) == {label}
    assert masks.among({label, "other"}) == set()


def test_the_left_picture_of_a_pair_is_no_label():
    assert masks.among({"0001", "0001_L", "0001_R"}) == set()
    assert masks.among({"0001", "0001_L", "0002_R"}) == {"0001_L"}


@pytest.mark.parametrize("name", ["0002_mask", "town/0001_mask", "0001_1", "0001_night", "0001mask", "labels/0002"])
def test_what_belongs_to_no_picture_is_kept(name):
    assert masks.among({"0001", name}) == set()


def test_endings_that_no_photograph_has_are_certain_and_others_doubtful():
    ids = {"a_labelIds", "b/c_gtFine_labelTrainIds", "trainIds", "venice_mask", "masks/d", "masked", "e_color"}
    assert masks.certain(ids) == {"a_labelIds", "b/c_gtFine_labelTrainIds", "trainIds"}
    assert masks.doubtful(ids) == {"venice_mask", "masks/d"}


def test_long_names_take_no_time():
    names = {f"a{'_mask_1' * 30}x", f"{'label_' * 40}x", f"a_mask{'1' * 200}x"}
    start = time.monotonic()
    assert masks.among(names) == set()
    assert time.monotonic() - start < 1
