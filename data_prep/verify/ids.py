"""Which ids a label map holds (labelIds, train ids, SYNTHIA's), told from what street scenes look like.

A file of the wrong kind of ids often has only values that are allowed: road is 7 in a Cityscapes labelIds file and
7 is "sign" as a train id. So the test is one of likelihood: the shares that the classes have in the published sets,
times where in the picture they lie (sky above, road below), are a distribution over (id, third of the picture) for
each id table. The table under which the pixels are likeliest is the one that the file was written with.
"""

from collections.abc import Iterable, Mapping
from functools import cache

import numpy as np

from uda_jax.data import labels

BANDS = 3  # top, middle and bottom third of the rows
Pixels = Mapping[int, tuple[int, ...]]  # stored id -> pixels in each band

# Percent of all pixels by train id, as measured on whole sets (Cityscapes: train and val together) and given in
# github.com/m-birke/automotive-segmentation-datasets; the remainder to 100 is ignored. PRBonn/bonnet issue 72
# counts Cityscapes val alone: road 32.9, building 19.2, vegetation 15.1, sky 2.9, car 5.7.
# fmt: off
SHARES: dict[str, tuple[float, ...]] = {
    "gta5": (32.10, 8.28, 16.9, 1.84, 0.63, 1.06, 0.134, 0.081, 7.6, 2.2, 13.5, 0.36, 0.031, 2.52, 1.13, 0.37,
             0.065, 0.032, 0.0054),
    "cityscapes": (32.7, 5.3, 20.1, 0.59, 0.77, 1.12, 0.182, 0.50, 14.3, 0.98, 3.5, 1.1, 0.130, 6.0, 0.24, 0.23,
                   0.19, 0.085, 0.40),
    "synthia": (18.4, 19.3, 29.3, 0.27, 0.268, 1.04, 0.039, 0.101, 10.3, 0, 6.9, 4.3, 0.47, 4.1, 0, 1.5,
                0, 0.21, 0.22),
}
# fmt: on

# Where things lie: shares of a class's pixels in the top, middle and bottom third (rounded from labelled photographs
# and rendered scenes, which agree within 0.2).
EVERYWHERE = (1 / 3, 1 / 3, 1 / 3)
ABOVE, GROUND, UPRIGHT, OBJECT = (0.9, 0.095, 0.005), (0.005, 0.245, 0.75), (0.55, 0.42, 0.03), (0.03, 0.82, 0.15)
WHERE = {"sky": ABOVE, **dict.fromkeys(("road", "sidewalk", "terrain"), GROUND)}
WHERE |= dict.fromkeys(("person", "rider", "car", "motorcycle", "bicycle"), OBJECT)

LEAST_SHARE = 1e-3  # of a class that the published sets hardly have
IGNORED_SHARE = 0.1  # half of it id 0 ("unlabeled", "void"), the rest spread evenly over the ids without a class
IMPOSSIBLE = 1e-7  # of an id that the table does not have
LEAST_IDS = 3  # in one file; fewer say too little
MARGIN = 0.5  # nats a pixel by which another table must be likelier; the true one won by 0.9 or more in 870 label maps
TABLES = {"cityscapes": "Cityscapes labelIds", "train": "Cityscapes train ids", "synthia": "SYNTHIA ids"}


@cache
def _log_likelihoods(table: str) -> dict[int, np.ndarray]:
    """Stored id -> log probability of (id, band), float [BANDS], under an id table of `labels.TABLES`."""
    shares = np.maximum(np.mean(list(SHARES.values()), axis=0) / 100, LEAST_SHARE)
    void = [row.id for row in labels.TABLES[table] if row.ignore]
    share = {row.id: IGNORED_SHARE / len(void) if row.ignore else shares[row.train_id] for row in labels.TABLES[table]}
    if 0 in void:
        share |= {value: share[value] / 2 + (IGNORED_SHARE / 2 if value == 0 else 0) for value in void}
    where = {row.id: EVERYWHERE if row.ignore else WHERE.get(row.name, UPRIGHT) for row in labels.TABLES[table]}
    return {value: np.log(share[value] * np.array(where[value])) for value in share}


def likelihood(pixels: Pixels, table: str) -> float:
    """Mean log likelihood of the pixels under an id table, nats a pixel; -inf without pixels."""
    model = _log_likelihoods(table)
    count = sum(sum(bands) for bands in pixels.values())
    if not count:
        return -np.inf
    impossible = np.full(BANDS, np.log(IMPOSSIBLE))
    return float(sum(np.dot(bands, model.get(value, impossible)) for value, bands in pixels.items()) / count)


def mistaken_for(pixels: Pixels, expected: str) -> str:
    """The id table that explains a label map better than `expected` by `MARGIN` or more; "" if there is none.

    Args:
      pixels: of one label map.
      expected: the id table that it should have: a key of `labels.TABLES`.
    """
    if len(pixels) < LEAST_IDS:
        return ""
    best = max(TABLES, key=lambda table: likelihood(pixels, table))
    same = {expected, "cityscapes"} if expected == "gta5" else {expected}  # GTA5 has one more id than Cityscapes
    return "" if best in same or likelihood(pixels, best) < likelihood(pixels, expected) + MARGIN else best


def add(histograms: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """The sum of histograms, id -> pixels, sorted by id."""
    total: dict[int, int] = {}
    for histogram in histograms:
        for value, count in histogram.items():
            total[value] = total.get(value, 0) + count
    return dict(sorted(total.items()))
