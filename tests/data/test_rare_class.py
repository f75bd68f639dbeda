"""Streams that draw images by their classes: uda_jax.data.rare_class, and crops that show what was drawn."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ml_collections import ConfigDict
from PIL import Image

from data_prep import folders
from tests.data.test_pipeline import same, stream, take
from uda_jax.config import default_config
from uda_jax.data import augment, pipeline
from uda_jax.data.labels import NAMES
from uda_jax.data.rare_class import make_rare_class_order
from uda_jax.errors import UserError
from uda_jax.training.loop import check_run
from uda_jax.training.sharding import make_mesh

SIZE = (24, 32)
ROAD, POLE, RIDER = 0, 5, 12
TOWN, VAL, HILLS = 20, 6, 8  # images, which have one number each across all
LEAST, WARM, COLD = 20, 0.5, 0.02  # at COLD road is never drawn


def scene(number: int) -> np.ndarray:
    """Road below a row without a class; patches of 36 pixels of pole in two of five, of 25 of rider in one of seven.

    One of three has a rider too small to be drawn for. int64 [24, 32].
    """
    label = np.full(SIZE, ROAD)
    label[0] = 255
    if number % 5 < 2:
        label[4:10, 4:10] = POLE
    if number % 7 == 3:
        label[13:18, 21:26] = RIDER
    elif number % 3 == 0:
        label[12:14, 16:18] = RIDER
    return label


def write(root: Path, number: int) -> None:
    """The scene, under a picture that is its number all over."""
    for kind, array in (("images", np.full((*SIZE, 3), 3 * number)), ("labels", scene(number))):
        (root / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array.astype(np.uint8)).save(root / kind / f"{number:03}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """folders/town: "train" (scenes 0..19) and "val" (20..25); folders/hills: "train" (26..33)."""
    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    for number in range(TOWN + VAL + HILLS):
        part = "train" if number < TOWN else "val" if number < TOWN + VAL else "hills"
        write(raw / part, number)
    split = {name: (raw / name / "images", raw / name / "labels") for name in ("train", "val", "hills")}
    folders.build(out, "town", {"train": split["train"], "val": split["val"]})
    folders.build(out, "hills", {"train": split["hills"]})
    return str(out)


def rare(**changes) -> ConfigDict:
    settings = {"sampling": "rare_class", "rare_temperature": COLD, "rare_pixels": LEAST, "rare_crop_ratio": 0.5}
    return stream(**{"dataset": "folders/town", "size": SIZE, **settings, **changes})


AUGMENTED = {"crop": (10, 12), "scale": (0.8, 1.5), "flip": True, "jitter": 0.1}


def counts(numbers: Iterable[int]) -> np.ndarray:
    """int64 [N, 19]."""
    return np.array([np.bincount(scene(number)[scene(number) < 255], minlength=19) for number in numbers])


def expected(pixels: np.ndarray, temperature: float) -> tuple[dict[int, float], np.ndarray]:
    """Probabilities of classes and of images, by the words of the paper."""
    total = {c: int(pixels[:, c].sum()) for c in range(pixels.shape[1]) if pixels[:, c].any()}
    weights = {c: float(np.exp((1 - n / sum(total.values())) / temperature)) for c, n in total.items()}
    classes = {c: weight / sum(weights.values()) for c, weight in weights.items()}
    images = np.zeros(len(pixels))
    for c, probability in classes.items():
        shown = [i for i, count in enumerate(pixels[:, c]) if count > LEAST]
        for i in shown:
            images[i] += probability / len(shown)
    return classes, images


def assert_frequencies(drawn: np.ndarray, probabilities: np.ndarray) -> None:
    """Each within five deviations of what is expected; what is impossible never."""
    found = np.bincount(drawn, minlength=len(probabilities)) / len(drawn)
    deviation = np.sqrt(probabilities * (1 - probabilities) / len(drawn))
    assert (np.abs(found - probabilities) <= 5 * deviation).all(), (found, probabilities)


def order(pixels: np.ndarray, temperature: float = WARM, seed: int = 0, domain: str = "source"):
    return make_rare_class_order(pixels, NAMES, temperature, LEAST, seed, domain)


def numbers(batches: list[dict]) -> np.ndarray:
    return np.array([image.max() // 3 for batch in batches for image in batch["image"]])


def riders(labels: np.ndarray) -> np.ndarray:
    """Pixels of each label, int64 [N, H, W] -> int64 [N]."""
    return (labels == RIDER).sum((1, 2))


def test_the_draws_never_change():
    """Runs of today are resumed by what is installed tomorrow."""
    drawn = order(counts(range(20)), seed=7)
    positions = np.array([0, 1, 2, 3, 4, 5, 1023, 1024, 10**12])
    assert drawn.classes_at(positions).tolist() == [12, 5, 5, 12, 5, 5, 5, 0, 5]
    assert drawn.records(positions).tolist() == [3, 10, 11, 17, 5, 16, 6, 4, 6]


@pytest.mark.parametrize("temperature", [0.3, WARM, 5.0])
def test_classes_and_images_are_drawn_as_often_as_they_should(temperature):
    pixels, positions = counts(range(TOWN)), np.arange(30_000)
    classes, images = expected(pixels, temperature)
    assert sorted(classes) == [ROAD, POLE, RIDER] and classes[ROAD] < classes[POLE] < classes[RIDER]
    drawn = order(pixels, temperature)
    assert_frequencies(drawn.classes_at(positions), np.array([classes.get(c, 0.0) for c in range(19)]))
    assert_frequencies(drawn.records(positions), images)


def test_every_image_shows_the_class_that_it_is_drawn_for():
    pixels, positions = counts(range(TOWN + VAL)), np.arange(5_000)
    drawn = order(pixels)
    shown = pixels[drawn.records(positions), drawn.classes_at(positions)]
    assert shown.min() == 25  # not the 4 of a small rider


def test_positions_are_found_in_any_order_and_number():
    drawn, through = order(counts(range(TOWN))), np.arange(5_000)
    positions = np.random.default_rng(0).integers(0, 5_000, 300)
    for find in (drawn.records, drawn.classes_at):
        assert np.array_equal(find(positions), find(through)[positions])
        assert np.array_equal([find(positions[i : i + 1]).item() for i in range(9)], find(positions)[:9])


def test_seeds_and_domains_are_drawn_apart():
    streams = [order(counts(range(TOWN)), seed=s, domain=d) for s in (-1, 0, 1) for d in ("source", "oracle")]
    assert len({tuple(one.records(np.arange(50))) for one in streams}) == 6


@pytest.mark.parametrize(
    ("changes", "size"),
    [({}, TOWN), ({"split": "val[1:]+train[:12]"}, 17), ({"dataset": "folders/town+folders/hills"}, TOWN + HILLS)],
)
def test_a_stream_draws_from_all_that_it_names_together(data, changes, size):
    config = rare(rare_temperature=WARM, **changes)
    members = [int(batch["id"][0]) for batch in pipeline.eval_batches(data, config, batch_size=1)]
    classes, images = expected(counts(members), WARM)
    assert len(set(members)) == size and len(classes) == 3
    place = {number: i for i, number in enumerate(members)}
    drawn = numbers(take(data, 90, config, batch_size=30))
    assert_frequencies(np.array([place[number] for number in drawn]), images)


def test_labels_belong_to_their_images(data):
    (batch,) = take(data, 1, rare(), batch_size=30)
    for number, label in zip(numbers([batch]), batch["label"], strict=True):
        np.testing.assert_array_equal(label, scene(number))
        assert max((label == POLE).sum(), (label == RIDER).sum()) > LEAST


def test_crops_show_what_was_drawn_more_often_than_any_do(data):
    """More than 10 pixels of a class; all without a search, and uniform ones of all images, for comparison."""

    def share(config: ConfigDict) -> float:
        labels = np.concatenate([batch["label"] for batch in take(data, 20, config, batch_size=30)])
        return float((np.maximum((labels == POLE).sum((1, 2)), riders(labels)) > LEAST / 2).mean())

    uniform = share(stream(dataset="folders/town", size=SIZE, crop=(10, 12)))
    first, sought = (share(rare(crop=(10, 12), rare_crop_ratio=ratio)) for ratio in (0.0, 0.5))
    assert uniform + 0.1 < first < 0.4 and sought > 0.9
    assert share(rare(crop=(10, 12), rare_crop_ratio=40.0)) < 0.5  # more than a crop can hold


@pytest.mark.parametrize("start", [1, 6, 17])
def test_stream_started_later_is_the_same_stream(data, start):
    through = take(data, start + 3, rare(**AUGMENTED))[start:]
    assert all(map(same, through, take(data, 3, rare(**AUGMENTED), start=start)))


@pytest.mark.parametrize("processes", [2, 6])
def test_the_number_of_processes_does_not_change_a_batch(data, processes):
    config, options = rare(split="train+val", **AUGMENTED), {"batch_size": 6, "start": 3}
    whole = take(data, 6, config, **options)
    parts = [take(data, 6, config, **options, process_index=i, process_count=processes) for i in range(processes)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert same(batch, {key: np.concatenate([share[key] for share in shares]) for key in batch})


def crops(
    count: int, sought: tuple[int, int] | None, crop: tuple[int, int] = (10, 12), scale: float = 1.0
) -> np.ndarray:
    """Labels of random crops of a scene with one rider, the same seeds each time; int64 [count, *crop]."""
    label = tf.constant(scene(3)[..., None], tf.uint8)

    def one(number: tf.Tensor) -> tf.Tensor:
        what = None if sought is None else augment.Sought(tf.constant(sought[0], tf.int64), sought[1])
        image, out = augment.augment(
            tf.repeat(label, 3, -1), label, tf.stack([5, number]), crop=crop, scale=(scale, scale), sought=what
        )
        if scale == 1:
            tf.debugging.assert_equal(image[..., :1], out)
        return out[..., 0]

    return np.array(list(tf.data.Dataset.range(count).map(one, tf.data.AUTOTUNE).as_numpy_iterator()), int)


@pytest.mark.slow
def test_the_first_window_that_shows_the_class_is_taken():
    """Ten are looked at, and an eleventh is kept: if a share q of windows shows it, (1 - q)^11 of searches fail."""
    windows = np.lib.stride_tricks.sliding_window_view(scene(3) == RIDER, (10, 12)).sum((2, 3))
    failing, tries = (1 - (windows > 20).mean()) ** 11, 8_000
    first, found = crops(tries, None), crops(tries, (RIDER, 20))
    np.testing.assert_array_equal(found[riders(first) > 20], first[riders(first) > 20])
    assert 0.1 < failing < 0.5
    assert abs((riders(found) <= 20).mean() - failing) < 5 * np.sqrt(failing * (1 - failing) / tries)


def test_pixels_are_counted_after_the_scaling():
    """A rider of 25 pixels has 100 at twice the size, of which crops show more than 60; and 6 or so at half of it."""
    first, found = (riders(crops(200, sought, (24, 32), 2.0)) > 60 for sought in (None, (RIDER, 60)))
    assert first.mean() < 0.5 and found.mean() > 0.9


@pytest.mark.parametrize(("crop", "scale"), [(SIZE, 1.0), ((12, 16), 0.5), (SIZE, 0.7)])
def test_there_is_nothing_to_seek_where_a_crop_is_the_whole_image(crop, scale):
    np.testing.assert_array_equal(crops(9, (RIDER, 1000), crop, scale), crops(9, None, crop, scale))
    assert (crops(9, None, crop, scale) == crops(1, None, crop, scale)).all()


def test_a_class_that_no_image_shows_well_enough_is_named(data):
    words = (
        r"folders/town \(train\): no image has more than rare_pixels=25 pixels of rider \(25 at most\), so none could "
        r"be drawn for it; lower this stream's rare_pixels below 25, or leave its sampling at 'uniform'"
    )
    with pytest.raises(UserError, match=words):
        take(data, 1, rare(rare_pixels=25))
    with pytest.raises(UserError, match=r"rider \(4 at most\).*below 4"):
        order(counts(range(3)))
    with pytest.raises(UserError, match=r"of road \(\d+ at most\), pole \(36 .*, rider \(25 .* rare_pixels below 25"):
        take(data, 1, rare(rare_pixels=1000))
    assert take(data, 1, rare(rare_pixels=24))


def test_labels_without_a_class_are_nothing_to_draw_by():
    with pytest.raises(UserError, match="no pixel of its labels has a class"):
        order(np.zeros((3, 19), np.int64))


def test_labels_that_are_not_read_are_not_drawn_by(data):
    with pytest.raises(UserError, match=r"config\.data\.target\.sampling='rare_class' draws images by their labels"):
        take(data, 1, rare(), labels=False, domain="target")


def test_a_run_is_refused_before_it_starts(config):
    """Whose target's labels would be used, and whose source lacks what it asks for; not what the method never reads."""
    config.data.target.update(sampling="rare_class", rare_pixels=0)
    with pytest.raises(UserError, match=r"config\.data\.target\.sampling='rare_class' .* does not read those"):
        check_run(config, make_mesh())
    config.method = "source_only"
    check_run(config, make_mesh())
    config.data.source.sampling = "rare_class"
    with pytest.raises(UserError, match=r"streets/rendered \(train\): no image has more than rare_pixels=3000 pixels"):
        check_run(config, make_mesh())
    config.data.source.rare_pixels = 0
    check_run(config, make_mesh())


def test_streams_are_uniform_unless_they_say_otherwise():
    data = default_config().data
    assert [data[name].sampling for name in ("source", "target", "oracle")] == ["uniform"] * 3
    assert (data.source.rare_temperature, data.source.rare_pixels, data.source.rare_crop_ratio) == (0.01, 3000, 0.5)
