"""VisDA-2017's segmentation target as a TFDS builder; also `tfds build data_prep/visda17.py --manual_dir=RAW`."""

from data_prep.builders import RawBuilder
from data_prep.raw import RAW_SETS


class Visda17(RawBuilder):
    """1,500 photographs from dashboard cameras, the test domain of the VisDA-2017 segmentation challenge.

    From https://github.com/VisionLearningGroup/taskcv-2017-public; labels are optional and keep their full size.
    """

    raw = RAW_SETS["visda17"]
