"""data_prep.prepare: work in several processes; what is stored of a scene."""

import io
import os
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from data_prep.pictures import read_image
from data_prep.prepare import AHEAD, Recipe, in_parallel, prepare
from tests.data_prep.raw_trees import save, scene
from uda_jax.errors import UserError


def test_results_come_in_order_and_workers_are_never_far_ahead():
    drawn = []

    def items() -> Iterator[int]:
        for number in range(40):
            drawn.append(number)
            yield -number

    results = in_parallel(abs, items(), workers=2)
    assert next(results) == 0 and len(drawn) <= 2 * AHEAD + 1
    assert list(results) == list(range(1, 40))


def test_a_worker_s_mistake_arrives_and_a_killed_worker_is_said(tmp_path):
    with pytest.raises(UserError, match="cannot read the image"):
        list(in_parallel(read_image, [save(tmp_path / "a.png", np.zeros((2, 2), np.uint8)), _broken(tmp_path)], 2))
    with pytest.raises(UserError, match="a worker process was killed"):
        list(in_parallel(os._exit, [1], workers=2))


def _broken(directory):
    path = directory / "b.png"
    path.write_bytes(b"no image")
    return path


def test_a_scene_is_stored_as_the_recipe_says(tmp_path):
    image, truth = scene("rendered", 3)
    files = ("a", save(tmp_path / "a.png", image), save(tmp_path / "b.png", truth))

    def stored(**how) -> tuple[Image.Image, Image.Image]:
        made = prepare(files, Recipe(lambda _: truth, **how))
        assert made.original_size == truth.shape
        return Image.open(io.BytesIO(made.image)), Image.open(io.BytesIO(made.label))

    assert [picture.size for picture in stored()] == [(64, 32), (64, 32)]
    assert [picture.size for picture in stored(size=(8, 12))] == [(12, 8), (12, 8)]
    assert [picture.size for picture in stored(size=(8, 12), full_labels=True)] == [(12, 8), (64, 32)]
    assert stored(size=(8, 12), encoding="jpeg")[0].format == "JPEG"
    assert stored(encoding="jpeg")[0].format == "PNG"  # not resized: byte for byte
