"""uda_jax.data.order: any position of a stream, looked up at once."""

import numpy as np
import pytest

from uda_jax.data.order import make_order
from uda_jax.errors import UserError


def epochs(counts, weights=(), number=3, seed=0, domain="source") -> np.ndarray:
    total = sum(counts)
    return make_order(counts, weights, seed, domain).records(np.arange(number * total)).reshape(number, total)


def test_the_order_never_changes():
    """Runs of today are resumed by what is installed tomorrow."""
    assert make_order([10], (), 7, "source").records(np.arange(12)).tolist() == [3, 2, 8, 7, 4, 0, 1, 5, 6, 9, 0, 7]


@pytest.mark.parametrize("counts", [[1], [7], [5, 3], [1, 1, 40]])
def test_sets_by_size_are_read_once_an_epoch_in_a_new_order_each_time(counts):
    found = epochs(counts)
    assert (np.sort(found) == np.arange(sum(counts))).all()
    assert sum(counts) < 7 or len({tuple(epoch) for epoch in found}) == 3


def test_positions_are_found_in_any_order_and_number():
    order = make_order([11, 5], (1.0, 3.0), 3, "target")
    positions = np.random.default_rng(0).integers(0, 1000, 300)
    through = order.records(np.arange(1000))
    assert np.array_equal(order.records(positions), through[positions])
    assert order.records(np.array([999_999_999_999])).item() < 16


def test_weights_say_how_often_each_set_is_drawn_from():
    found = epochs([30, 10], (1.0, 3.0), number=40)  # 10 and 30 a time: the first takes 3 epochs, the second a third
    assert ((found < 30).sum(1) == 10).all()
    first, second = found[found < 30], found[found >= 30] - 30
    assert (np.sort(first[:390].reshape(-1, 30)) == np.arange(30)).all()
    assert (np.sort(second.reshape(-1, 30)) == np.repeat(np.arange(10), 3)).all()
    assert len({tuple(np.flatnonzero(epoch < 30)) for epoch in found}) == 40  # mixed, and not in one pattern


@pytest.mark.parametrize(("counts", "weights"), [([3, 3, 3], (1, 1, 1)), ([7, 2], (0.1, 0.9))])
def test_shares_add_up_to_an_epoch(counts, weights):
    order = make_order(counts, weights, 0, "source")
    assert sum(order.shares) == sum(counts) and min(order.shares) >= 0
    assert np.abs(np.array(order.shares) / sum(counts) - np.array(weights) / sum(weights)).max() < 1 / sum(counts)


def test_a_weight_that_never_draws_is_refused():
    with pytest.raises(UserError, match=r"weights \(1e-09, 1\)"):
        make_order([5, 5], (1e-9, 1), 0, "source")


def test_seeds_and_domains_and_sets_are_shuffled_apart():
    streams = [epochs([50], seed=s, domain=d)[0] for s in (-1, 0, 1) for d in ("source", "target")]
    assert len({tuple(stream) for stream in streams}) == 6
    a, b = np.split(np.sort(epochs([50, 50])[0].reshape(2, 50), axis=0), 2)
    assert not np.array_equal(a, b - 50)


def test_every_record_is_as_likely_at_every_place():
    """Chi squared over 2,000 epochs of 8 records: 56 counts of 250, within 5 deviations."""
    found = epochs([8], number=2000)
    counts = np.array([np.bincount(found[:, place], minlength=8) for place in range(8)])
    assert np.abs(counts - 250).max() < 5 * np.sqrt(250 * 7 / 8)
