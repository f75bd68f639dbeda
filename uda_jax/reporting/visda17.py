"""The table of the VisDA-2017 slides: a row a setting, a column a class, the published rows beside one's own."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from uda_jax.data.labels import NAMES
from uda_jax.reporting.comparison import ORACLE, SOURCE, Read, flat, percent, scores

TITLE = "As on the slides of VisDA-2017"
# IoU in % on the 1,500 test photographs, GTA5 the source: the classes in the order of the train ids, in which the
# slides' numbers are handed down, then their mean.
PUBLISHED: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "source": (30.8, 16.3, 44.7, 2.6, 20.5, 28.2, 34.4, 27.9, 67.8, 11.4, 70.0, 43.2, 23.0, 63.5, 10.6, 7.8, 8.4,
                   41.0, 23.8, 30.3),
        "adapt": (87.2, 33.3, 70.2, 13.6, 27.8, 29.3, 32.9, 27.9, 77.2, 28.6, 90.3, 47.0, 35.7, 78.0, 24.8, 18.0, 9.1,
                  37.4, 38.1, 42.4),
    }
)  # fmt: skip


def slides(read: Read) -> list[list[str]]:
    """The cells: a header, then for each setting of the slides the published row and those of the runs; [] if these
    were not all scored on VisDA-2017's test split by its nineteen classes.

    The label "source-only" is the setting "source", "oracle" one that the slides have no row of, any other "adapt".
    """
    names, ious = scores(read)
    on = {(run.evaluation.get("dataset"), run.evaluation.get("split")) for run in flat(read)}
    if on != {("visda17", "test")} or tuple(names[:-1]) != NAMES:
        return []
    rows = []
    for setting in (*PUBLISHED, ORACLE):
        if setting in PUBLISHED:
            rows.append([setting, "published", *(f"{value:.1f}" for value in PUBLISHED[setting])])
        rows += [[setting, label, *_row(values)] for label, values in ious.items() if _setting(label) == setting]
    return [["setting", "run", *names], *rows]


def _setting(label: str) -> str:
    return {SOURCE: "source", ORACLE: ORACLE}.get(label, "adapt")


def _row(values: np.ndarray) -> list[str]:
    return [percent(column) for column in values.T]
