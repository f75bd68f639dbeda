"""Cityscapes as a TFDS builder; also `tfds build data_prep/cityscapes.py --manual_dir=RAW`."""

from data_prep.builders import RawBuilder
from data_prep.raw import RAW_SETS


class Cityscapes(RawBuilder):
    """5,000 finely annotated photographs from a car in 50 cities (Cordts et al., CVPR 2016).

    From https://www.cityscapes-dataset.com, leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip. The split
    "val" keeps its labels at full size, as scores are published at it; "test" has no labels.
    """

    raw = RAW_SETS["cityscapes"]
