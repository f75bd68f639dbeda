"""SYNTHIA-RAND-CITYSCAPES as a TFDS builder; also `tfds build data_prep/synthia.py --manual_dir=RAW`."""

from data_prep.builders import RawBuilder
from data_prep.raw import RAW_SETS


class Synthia(RawBuilder):
    """9,400 rendered street scenes from random viewpoints (Ros, Sellart, Materzynska, Vazquez and Lopez, CVPR 2016).

    From https://synthia-dataset.net, SYNTHIA-RAND-CITYSCAPES.
    """

    raw = RAW_SETS["synthia"]
