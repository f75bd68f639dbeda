"""Pictures of any size: the same classes as the segmenter's own, by strips, windows, mirrored and at scales."""

import numpy as np
import pytest

from uda_jax.errors import UserError
from uda_jax.inference import predictor
from uda_jax.inference.model import Model
from uda_jax.inference.predictor import Prediction, Settings, check_settings, looked_at, predict, starts


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise in blocks, in which the network sees several classes."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return blocks.repeat(8, 0).repeat(8, 1)[:height, :width]


def one(model: Model, image: np.ndarray, settings: Settings = predictor.USUAL, **asked: object) -> Prediction:
    (found,) = predict(model.segmenter, [image], settings, **asked)  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("strip", [predictor.STRIP, 19 * 96 * 7])
def test_whole_pictures_have_the_segmenters_own_classes(
    model: Model, strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits are resized once and then chosen from, in strips of seven rows or at once."""
    monkeypatch.setattr(predictor, "STRIP", strip)
    image = picture(32, 64)
    found = one(model, image, sizes=[(48, 96)], confidence=True, entropy=True)
    p = np.asarray(model.segmenter.probabilities(image, (48, 96)))
    expected = np.asarray(model.segmenter.predict(image, (48, 96)))
    assert len(np.unique(expected)) > 1
    assert np.mean(found.train_ids == expected) > 0.999  # ties by rounding
    np.testing.assert_allclose(found.confidence, p.max(-1), atol=1e-5)
    np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(-1) / np.log(19), atol=1e-5)


def test_a_batch_is_as_each_alone(model: Model) -> None:
    images = [picture(40, 56, seed) for seed in range(3)]
    together = list(predict(model.segmenter, images, Settings(batch_size=2)))
    assert [p.train_ids.shape for p in together] == [(40, 56)] * 3
    for image, found in zip(images, together, strict=True):
        assert np.mean(found.train_ids == one(model, image).train_ids) > 0.999


def test_the_longer_side_is_what_it_was_trained_at() -> None:
    assert looked_at((1024, 2048), (512, 1024), Settings()) == (512, 1024)
    assert looked_at((4000, 3000), (512, 1024), Settings()) == (1024, 768)
    assert looked_at((100, 50), (512, 1024), Settings(scale=0.5)) == (50, 25)
    assert looked_at((100, 50), (512, 1024), Settings(size=(7, 9))) == (7, 9)


def test_mirrored_pictures_have_mirrored_classes(model: Model) -> None:
    image = picture(32, 64)
    settings = Settings(flip=True)
    there = one(model, image, settings).train_ids
    back = one(model, np.ascontiguousarray(image[:, ::-1]), settings).train_ids[:, ::-1]
    assert np.mean(there == back) > 0.999
    assert not np.array_equal(one(model, image).train_ids, there)


def test_scales_are_averaged(model: Model) -> None:
    image = picture(32, 64)
    p = np.asarray(model.segmenter.probabilities(image))
    p = (p + np.asarray(model.segmenter.probabilities(predictor.resize(image, (48, 96)), (32, 64)))) / 2
    found = one(model, image, Settings(scales=(1.0, 1.5)), confidence=True)
    assert np.mean(found.train_ids == p.argmax(-1)) > 0.999
    np.testing.assert_allclose(found.confidence, p.max(-1), atol=1e-5)


def test_windows_are_averaged_where_they_overlap(model: Model) -> None:
    image = picture(32, 64)
    total, count = np.zeros((32, 64, 19)), np.zeros((32, 64, 1))
    for left in (0, 12, 24):
        seen = np.ascontiguousarray(image[:, left : left + 40])
        total[:, left : left + 40] += np.asarray(model.segmenter.probabilities(seen))
        count[:, left : left + 40] += 1
    found = one(model, image, Settings(window=(64, 40), overlap=0.5, batch_size=2), confidence=True)
    np.testing.assert_allclose(found.confidence, (total / count).max(-1), atol=1e-5)
    assert np.mean(found.train_ids == (total / count).argmax(-1)) > 0.999


@pytest.mark.parametrize(
    ("length", "window", "overlap"), [(100, 40, 0.0), (101, 40, 1 / 3), (1000, 7, 0.9), (5, 7, 0.5)]
)
def test_windows_cover_everything(length: int, window: int, overlap: float) -> None:
    places = starts(length, window, overlap)
    assert places[0] == 0
    assert max(places) == max(length - window, 0)
    steps = np.diff(places)
    assert all(steps > 0)
    assert all(steps <= max(round(window * (1 - overlap)), 1))


def test_pictures_beyond_memory_are_refused(model: Model) -> None:
    """Of 19 scores a pixel, 20,000 x 20,000 pixels would have 30 GB at full scale."""
    huge = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (20_000, 20_000, 3))
    with pytest.raises(UserError, match=r"20000x20000 would be looked at as 20000x20000 pixels.*smaller --scale"):
        one(model, huge, Settings(scale=1.0, flip=True))


@pytest.mark.parametrize(
    "settings",
    [
        Settings(scale=0),
        Settings(scales=()),
        Settings(scales=(1.0, -1.0)),
        Settings(overlap=1),
        Settings(window=(0, 4)),
    ],
)
def test_settings_that_cannot_work(settings: Settings) -> None:
    with pytest.raises(UserError, match=r"expected|must be"):
        check_settings(settings)
