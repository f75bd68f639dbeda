"""Confusion matrix, IoU, label tables and the way from files to the network's input."""

import jax.numpy as jnp
import numpy as np

from data_prep.pictures import resize_image, resize_label
from tests.parity import reference as ref
from uda_jax.data import labels
from uda_jax.evaluation.metrics import confusion_matrix, iou_per_class, mean_iou
from uda_jax.models.networks import build_networks

METRICS, PREPROCESS = "08_metrics", "09_preprocess"


def check_iou(group: str, confusion: np.ndarray, iou: np.ndarray, miou: np.ndarray) -> None:
    ours = iou_per_class(confusion)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(iou))
    ref.check(METRICS, group, np.nan_to_num(ours), np.nan_to_num(iou))
    ref.check(METRICS, group, mean_iou(confusion), miou)


def test_confusion_and_iou() -> None:
    v = ref.load(METRICS)
    label, prediction = v["label"].astype(np.int32), v["pred"].astype(np.int32)
    confusion = np.asarray(confusion_matrix(label, prediction, len(v["hist"])))
    ref.check(METRICS, "histogram", confusion, v["hist"], 0)
    check_iou("IoU", confusion, v["per_class_iou"], v["miou_nanmean"])


def test_iou_of_a_whole_directory_with_raw_ids() -> None:
    v = ref.load(METRICS)
    classes, total = len(v["hist"]), 0
    for i in range(len([k for k in v if k.startswith("full/labelids")])):
        mapped = labels.id_table("cityscapes")[v[f"full/labelids{i}"]].astype(np.int32)
        ref.check(METRICS, "label ids", mapped, v[f"full/mapped{i}"] % 256, 0)
        total = total + np.asarray(confusion_matrix(mapped, v[f"full/pred{i}"].astype(np.int32), classes))
    check_iou("IoU, whole evaluation", total, v["full/per_class_iou"], v["full/miou"])


def test_tables() -> None:
    v = ref.load(METRICS)
    theirs = [str(name).replace("motocycle", "motorcycle") for name in v["class_names"]]
    assert [name.replace("motocycle", "motorcycle") for name in labels.NAMES] == theirs
    for stored, train_id in v["label2train"].tolist():
        assert labels.id_table("cityscapes")[stored % 256] == train_id % 256
    np.testing.assert_array_equal(labels.palette()[: len(v["palette"])], v["palette"])


def test_from_pixels_to_the_network() -> None:
    """Pillow's bicubic and nearest, BGR, the mean: bit for bit."""
    v = ref.load(PREPROCESS)
    segmenter = build_networks(ref.parity_config("float32")).segmenter
    train_ids = labels.id_table("cityscapes")[v["label_ids"]]
    for width, height in v["sizes_wh"].tolist():
        case, size = f"{width}x{height}", (height, width)
        image = resize_image(v["rgb_u8"], size)
        ours = np.asarray(segmenter.preprocess(jnp.asarray(image)[None]))[0].transpose(2, 0, 1)
        assert ours.dtype == np.float32
        assert (*image.shape,) == tuple(v[f"{case}/gta_size"])
        for kind in ("gta_image", "city_image"):
            ref.check(PREPROCESS, "images", ours, v[f"{case}/{kind}"], 0)
        ref.check(PREPROCESS, "labels", resize_label(train_ids, size), v[f"{case}/gta_label"], 0)
        # ADVENT's table has no entry of its own for GTA5's id 34, which Cityscapes does not use.
        used = v["label_ids"] <= max(c.cityscapes_id for c in labels.CLASSES)
        advent = v[f"{case}/advent_city_label_fullsize"]
        ref.check(PREPROCESS, "labels", train_ids[used], advent[used], 0)
