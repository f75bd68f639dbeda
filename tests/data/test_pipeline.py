"""uda_jax.data.pipeline and uda_jax.data.augment on small prepared datasets."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict
from PIL import Image

from data_prep import folders
from data_prep.label_map import LabelMap
from uda_jax.data import augment, decode, pipeline
from uda_jax.errors import UserError

SIZE = (12, 16)
TRAIN, VAL = 23, 5


def write_scene(root: Path, number: int, size: tuple[int, int] = SIZE) -> None:
    """An image whose pixels are 9 * number (plus a ramp in green) and a label map of `number % 19`."""
    for kind in ("images", "labels"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    image = np.full((*size, 3), 9 * number, np.uint8)
    image[..., 1] = np.arange(size[1])
    label = np.full(size, number % 19, np.uint8)
    label[0] = 255
    Image.fromarray(image).save(root / "images" / f"{number:03}.png")
    Image.fromarray(label).save(root / "labels" / f"{number:03}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """folders/small: "train" (23 labelled), "val" (5 labelled), "bare" (the val images without labels)."""
    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    for number in range(TRAIN):
        write_scene(raw / "train", number)
    for number in range(TRAIN, TRAIN + VAL):
        write_scene(raw / "val", number)
    splits = {name: (raw / name / "images", raw / name / "labels") for name in ("train", "val")}
    folders.build(out, "small", {**splits, "bare": (raw / "val" / "images", None)})
    return str(out)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> str:
    """folders/photos: three smooth labelled JPEGs of 48x64."""
    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    for number in range(3):
        write_scene(raw, number, (48, 64))
        (raw / "images" / f"{number:03}.png").unlink()
        Image.fromarray(smooth(number)).save(raw / "images" / f"{number:03}.jpg", quality=95)
    folders.build(out, "photos", {"train": (raw / "images", raw / "labels")})
    return str(out)


def smooth(number: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = [np.sin(rows / 9 + number), np.cos(columns / 7), np.sin((rows + columns) / 8)]
    return (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def stream(**changes) -> ConfigDict:
    fields = {"dataset": "folders/small", "weights": (), "split": "train", "size": SIZE, "label_size": ()}
    fields |= {"crop": (), "scale": (1.0, 1.0), "flip": False, "jitter": 0.0, "dct_scaling": False}
    fields |= {"sampling": "uniform", "rare_temperature": 0.01, "rare_pixels": 3000, "rare_crop_ratio": 0.5}
    return ConfigDict({**fields, **changes})


AUGMENTED = {"crop": (8, 10), "scale": (0.5, 1.5), "flip": True, "jitter": 0.4}


def take(data: str, batches: int, config: ConfigDict, **options) -> list[dict]:
    options = {"batch_size": 4, "seed": 7, **options}
    return list(itertools.islice(pipeline.train_stream(data, config, **options), batches))


def numbers(batches: list[dict]) -> list[int]:
    return [int(value) // 9 for batch in batches for value in batch["image"][:, -1, -1, 0]]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_train_batches_have_static_shapes_and_matching_labels(data):
    batch = take(data, 1, stream(crop=(8, 10)))[0]
    assert batch["image"].shape == (4, 8, 10, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (4, 8, 10) and batch["label"].dtype == np.int32
    np.testing.assert_array_equal(batch["label"][:, -1, -1], np.array(numbers([batch])) % 19)


def test_every_epoch_holds_every_image_once_and_batches_run_across_borders(data):
    order = numbers(take(data, TRAIN, stream()))  # 23 batches of 4 are 4 epochs of 23
    epochs = [order[i : i + TRAIN] for i in range(0, len(order), TRAIN)]
    assert all(sorted(epoch) == list(range(TRAIN)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_order_is_a_function_of_the_seed(data):
    first = numbers(take(data, 6, stream()))
    assert first == numbers(take(data, 6, stream()))
    assert first != numbers(take(data, 6, stream(), seed=8))
    assert first[:TRAIN] != sorted(first[:TRAIN])


@pytest.mark.parametrize("start", [1, 5, 6, 17])  # inside the first epoch, before and after a border, later
def test_stream_started_later_is_the_same_stream(data, start):
    through = take(data, start + 3, stream(**AUGMENTED))[start:]
    resumed = take(data, 3, stream(**AUGMENTED), start=start)
    assert all(same(a, b) for a, b in zip(through, resumed, strict=True))


def test_a_stream_of_several_files_resumes_too(data):
    config = stream(split="train[:3]+val+train[3:]", **AUGMENTED)
    through = take(data, 9, config)[5:]
    assert all(map(same, through, take(data, 4, config, start=5)))


def test_the_same_image_is_augmented_differently_each_time(data):
    batches = take(data, 6, stream(split="train[:1]", **AUGMENTED))
    assert len({image.tobytes() for batch in batches for image in batch["image"]}) > 12


@pytest.mark.parametrize("processes", [2, 3, 6])
def test_the_number_of_processes_does_not_change_a_batch(data, processes):
    config, options = stream(split="train+val", **AUGMENTED), {"batch_size": 6, "start": 3}  # two files, 28 images
    whole = take(data, 6, config, **options)  # beyond the end of an epoch
    parts = [take(data, 6, config, **options, process_index=i, process_count=processes) for i in range(processes)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert same(batch, {key: np.concatenate([share[key] for share in shares]) for key in batch})


@pytest.mark.parametrize("processes", range(1, 18))
def test_any_number_of_processes_reads_disjoint_records_that_together_are_all(processes):
    pieces = [pipeline.Piece("a", 2, 7), pipeline.Piece("b", 0, 1), pipeline.Piece("c", 5, 9)]
    records = [(name, skip + i) for name, skip, take in pieces for i in range(take)]
    slices = [pipeline._slice_of(pieces, index, processes) for index in range(processes)]
    read = [(name, skip + i) for part in slices for name, skip, take in part for i in range(take)]
    assert read == records
    sizes = [sum(piece.take for piece in part) for part in slices]
    assert max(sizes) - min(sizes) <= 1


def test_streams_of_one_seed_share_no_randomness(data):
    """Record k of the source doesn't meet record k of the target, nor the same flips and crops."""
    source, target = (numbers(take(data, 23, stream(), domain=domain)) for domain in ("source", "target"))
    assert sum(a == b for a, b in zip(source, target, strict=True)) < 16  # of 92; 4 are expected
    one = stream(split="train[:1]", **AUGMENTED)
    a, b = (take(data, 4, one, domain=domain) for domain in ("source", "target"))
    pairs = [(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p["image"], q["image"], strict=True)]
    assert not any(np.array_equal(x, y) for x, y in pairs)


def test_another_librarys_global_seed_changes_nothing(data):
    expected = take(data, 6, stream(**AUGMENTED))
    tf.random.set_seed(0)
    try:
        assert all(map(same, take(data, 6, stream(**AUGMENTED)), expected))
    finally:
        tf.random.set_seed(None)


def test_unlabelled_stream_reads_no_labels(data):
    assert set(take(data, 1, stream(split="bare"), labels=False)[0]) == {"image"}
    with pytest.raises(UserError, match="has no labels"):
        take(data, 1, stream(split="bare"))


def test_images_are_resized_to_the_size_asked_for(data):
    batch = take(data, 1, stream(size=(6, 8)))[0]
    assert batch["image"].shape == (4, 6, 8, 3)
    np.testing.assert_array_equal(batch["label"][:, -1, -1], np.array(numbers([batch])) % 19)


def test_dct_scaling_changes_only_images_stored_at_twice_the_size(photos):
    for size, twice in (((24, 32), True), ((12, 10), True), ((25, 32), False), ((48, 64), False)):
        config = stream(dataset="folders/photos", size=size)
        ours, exact = (take(photos, 1, c)[0] for c in (ConfigDict({**config, "dct_scaling": True}), config))
        np.testing.assert_array_equal(ours["label"], exact["label"])
        error = np.abs(ours["image"].astype(int) - exact["image"])
        assert ours["image"].shape == (4, *size, 3) and error.mean() < 2
        assert bool(error.max()) == twice


def test_dct_scaling_leaves_other_codecs_alone(data):
    small = stream(size=(6, 8))
    for a, b in zip(take(data, 3, small), take(data, 3, ConfigDict({**small, "dct_scaling": True})), strict=True):
        assert same(a, b)


@pytest.mark.parametrize(
    ("size", "ratio"),
    [
        ((100, 120), 1),
        ((51, 60), 1),
        ((50, 61), 1),
        ((50, 60), 2),
        ((26, 30), 2),
        ((25, 30), 4),
        ((12, 15), 8),
        ((1, 1), 8),
    ],
)
def test_jpegs_are_decoded_at_the_smallest_size_that_is_not_below_the_one_wanted(size, ratio):
    jpeg = tf.io.encode_jpeg(smooth(0, (101, 120)), quality=95)
    shrunken = decode.decode_shrunken(jpeg, size)
    assert shrunken.shape == (math.ceil(101 / ratio), 120 // ratio, 3)
    np.testing.assert_array_equal(shrunken, tf.io.decode_jpeg(jpeg, channels=3, ratio=ratio))
    if ratio == 1:
        np.testing.assert_array_equal(shrunken, tf.io.decode_image(jpeg, channels=3))


def test_grey_jpegs_and_pngs_are_decoded_as_rgb():
    grey = smooth(0)[..., :1]
    for encoded in (tf.io.encode_jpeg(grey, quality=95), tf.io.encode_png(grey)):
        assert decode.decode_shrunken(encoded, (48, 64)).shape == (48, 64, 3)
    np.testing.assert_array_equal(decode.decode_shrunken(tf.io.encode_png(grey), (6, 8)), np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize("processes", [1, 2, 7])
def test_evaluation_counts_every_image_once_in_equally_many_batches(data, processes):
    options = {"batch_size": 2 * processes, "process_count": processes}
    passes = [
        list(pipeline.eval_batches(data, stream(split="val"), process_index=index, **options))
        for index in range(processes)
    ]
    assert len({len(batches) for batches in passes}) == 1
    batches = [batch for batches in passes for batch in batches]
    ids = [name for batch in batches for name, real in zip(batch["id"], batch["mask"], strict=True) if real]
    assert sorted(ids) == [f"{number:03}" for number in range(TRAIN, TRAIN + VAL)]
    padding = [batch["label"][~batch["mask"]] for batch in batches]
    assert all((labels == 255).all() for labels in padding)
    assert all(batch["image"].shape == (2, *SIZE, 3) for batch in batches)


def test_evaluation_keeps_labels_at_their_own_size_and_order(data):
    config = stream(split="val", size=(6, 8), label_size=SIZE)
    batches = list(pipeline.eval_batches(data, config, batch_size=2))
    again = list(pipeline.eval_batches(data, config, batch_size=2))
    assert batches[0]["image"].shape == (2, 6, 8, 3) and batches[0]["label"].shape == (2, *SIZE)
    assert [batch["id"] for batch in batches] == [batch["id"] for batch in again]
    for name, label in zip(batches[0]["id"], batches[0]["label"], strict=True):
        assert (label[1:] == int(name) % 19).all() and (label[0] == 255).all()


def test_evaluation_limit_takes_the_first_images(data):
    full = [name for batch in pipeline.eval_batches(data, stream(), batch_size=4) for name in batch["id"]]
    some = list(pipeline.eval_batches(data, stream(), batch_size=4, limit=6))
    assert [name for batch in some for name in batch["id"]] == [*full[:6], "", ""]


def test_describe(data):
    info = pipeline.describe(data, "folders/small", "train")
    assert info["count"] == TRAIN and info["labelled"] and info["classes"][13] == "car"
    assert not pipeline.describe(data, "folders/small", "bare")["labelled"]


@pytest.mark.parametrize(
    ("dataset", "command"),
    [
        ("streets/rendered", "python -m data_prep.build --dataset=streets --out="),
        ("folders/mine", "python -m data_prep.build --dataset=folders --name=mine --split train=IMAGES"),
    ],
)
def test_a_missing_dataset_names_the_command(data, dataset, command):
    with pytest.raises(UserError, match=command):
        take(data, 1, stream(dataset=dataset))


def test_an_unknown_split_lists_the_splits(data):
    with pytest.raises(UserError, match=r"'test'.*bare, train, val"):
        take(data, 1, stream(split="test"))


def test_a_batch_size_that_processes_cannot_share_is_refused(data):
    with pytest.raises(UserError, match="batch size 3"):
        take(data, 1, stream(), batch_size=3, process_count=2)


def test_label_ids_out_of_range_are_refused(tmp_path):
    write_scene(tmp_path / "raw", 3)
    wrong = LabelMap("wrong", ("road", "sidewalk"), {3: 3, 255: 0}, {})  # two classes, but 3 stays 3
    images = tmp_path / "raw"
    folders.build(tmp_path, "two", {"train": (images / "images", images / "labels")}, label_map=wrong)
    with pytest.raises(UserError, match=r"folders/two \(train\): found label id 3, expected train ids 0..1 or 255"):
        take(str(tmp_path), 1, stream(dataset="folders/two"), batch_size=1)


def test_augmentation_moves_image_and_label_together():
    image = np.random.default_rng(0).integers(0, 19, (9, 11, 1), np.uint8)
    pair = tf.constant(np.repeat(image, 3, axis=2)), tf.constant(image)
    flips = set()
    for number in range(12):
        seed = tf.constant([1, number], tf.int64)
        out, label = augment.augment(*pair, seed, crop=(5, 7), flip=True)
        np.testing.assert_array_equal(out.numpy()[..., 0], label.numpy()[..., 0])
        window = label.numpy()[..., 0]
        found = [
            (flipped, top, left)
            for flipped, top, left in itertools.product((False, True), range(5), range(5))
            if np.array_equal(window[:, ::-1] if flipped else window, image[top : top + 5, left : left + 7, 0])
        ]
        assert len(found) == 1
        flips.add(found[0][0])
    assert flips == {False, True}


def test_a_window_larger_than_the_image_is_padded():
    image, label = tf.ones((4, 5, 3), tf.uint8), tf.ones((4, 5, 1), tf.uint8)
    out, padded = augment.augment(image, label, tf.constant([0, 0], tf.int64), crop=(6, 8))
    assert out.shape == (6, 8, 3) and padded.shape == (6, 8, 1)
    assert out.numpy().sum() == 4 * 5 * 3 and (padded.numpy() == 255).sum() == 6 * 8 - 4 * 5


def test_resizing_clips_the_bicubic_overshoot_and_invents_no_label():
    steps = np.zeros((8, 8, 3), np.uint8)
    steps[:, 4:] = 255
    label = steps[..., :1] // 255 * 7
    out, small = augment.resize(tf.constant(steps), tf.constant(label), (16, 16))
    assert (out.numpy()[:, :4] < 30).all() and (out.numpy()[:, -4:] > 225).all()  # wrapped values would not be
    assert set(np.unique(small.numpy())) == {0, 7}


def test_jitter_changes_colours_within_its_strength_and_differs_between_views():
    grey, colours = tf.fill((6, 8, 3), tf.constant(100, tf.uint8)), []
    for number in range(20):
        seed = tf.constant([1, number], tf.int64)
        out = augment.view(grey, seed, "image", 0.2)
        np.testing.assert_array_equal(augment.view(grey, seed, "weak", 0.2), grey)
        assert (augment.view(grey, seed, "strong", 0.2) != out).numpy().any()
        assert (out.numpy() == out.numpy()[0, 0]).all()  # an even picture stays even
        colours.append(out.numpy()[0, 0].astype(int))
    assert np.min(colours) >= 80 and np.max(colours) <= 120 and np.ptp(colours) > 20
    assert np.ptp(colours, axis=1).max() > 5  # white balance: the channels move apart


def test_jitter_scales_contrast_and_saturation():
    """Differences between pixels and from grey change by common factors, up to rounding."""
    image = np.random.default_rng(0).integers(60, 140, (5, 7, 3)).astype(np.uint8)
    spreads = {
        round(float(augment.jitter_colours(image, (0, n), 0.3).numpy().std() / image.std()), 2) for n in range(9)
    }
    assert len(spreads) > 5 and min(spreads) < 0.9 and max(spreads) > 1.1


def test_views_of_a_record_share_its_geometry(data_dir):
    augmented = stream(dataset="streets/rendered", crop=(16, 24), scale=(0.7, 1.5), flip=True, jitter=0.3)
    batches = {
        views: next(pipeline.train_stream(str(data_dir), augmented, batch_size=4, seed=3, views=views))
        for views in (("image",), ("weak", "strong"), ("weak",))
    }
    both = batches["weak", "strong"]
    assert both.keys() == {"weak", "strong", "label"}
    np.testing.assert_array_equal(both["weak"], batches["weak",]["weak"])
    for batch in batches.values():
        np.testing.assert_array_equal(batch["label"], both["label"])
    assert (both["strong"] != both["weak"]).any() and (both["strong"] != batches["image",]["image"]).any()
    grey = [both[view].mean(-1).reshape(4, -1) for view in ("weak", "strong")]  # the same picture under other colours
    assert all(np.corrcoef(a, b)[0, 1] > 0.9 for a, b in zip(*grey, strict=True))
