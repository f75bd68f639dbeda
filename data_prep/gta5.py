"""GTA5 ("Playing for Data") as a TFDS builder; also `tfds build data_prep/gta5.py --manual_dir=RAW`."""

from data_prep.builders import RawBuilder
from data_prep.raw import RAW_SETS


class Gta5(RawBuilder):
    """24,966 frames of a game with the ids of Cityscapes (Richter, Vineet, Roth and Koltun, ECCV 2016).

    From https://download.visinf.tu-darmstadt.de/data/from_games/, ten archives of images and ten of labels.
    """

    raw = RAW_SETS["gta5"]
