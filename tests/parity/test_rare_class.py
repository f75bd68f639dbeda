"""Rare-class sampling: how likely each class is drawn, against DAFormer's published code."""

import numpy as np
import pytest

from tests.parity import reference as ref
from tests.parity.selftraining import load
from uda_jax.data.rare_class import class_probabilities

FILE = "selftraining"
TOLERANCE = 1e-12


@pytest.mark.parametrize("temperature", ["0.01", "0.05", "0.1"])
@pytest.mark.parametrize("case", ["toy", "cityscapes_train"])
def test_probabilities(case: str, temperature: str) -> None:
    """The smallest, of road, is 1e-17: relative errors are held down class by class as well."""
    v = load(FILE)
    pixels, classes = (v[f"rcs/{case}/{name}"] for name in ("pixel_counts", "classes_by_frequency"))
    ours = class_probabilities(pixels, float(temperature))[classes]
    theirs = ref.truth(v, f"rcs/{case}/T{temperature}/prob")
    ref.check(FILE, "rare-class sampling: probabilities", ours, theirs, TOLERANCE)
    np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE)


def test_classes_that_do_not_occur_change_nothing() -> None:
    """The published code lists only those that do."""
    pixels = load(FILE)["rcs/toy/pixel_counts"]
    with_others = np.insert(pixels, [0, 7, 19], 0)
    ours = class_probabilities(with_others, 0.05)
    assert (ours[with_others == 0] == 0).all()
    np.testing.assert_allclose(ours[with_others > 0], class_probabilities(pixels, 0.05), rtol=TOLERANCE)
