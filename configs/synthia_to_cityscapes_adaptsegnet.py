"""AdaptSegNet, multi-level, SYNTHIA -> Cityscapes: the published GTA5 recipe (Tsai et al., CVPR 2018) on SYNTHIA.

Command:   python -m uda_jax.main --config=configs/synthia_to_cityscapes_adaptsegnet.py --workdir=runs/synthia_multi \
               --config.model.pretrained=weights/resnet101.npz
Data:      data/synthia (1280x760) and data/cityscapes (1024x512) as TFRecords; see docs/data.md.
Hardware:  as configs/gta5_to_cityscapes_adaptsegnet.py. Time: not measured here.
Expect:    no number is claimed: the paper's is over 13 classes, and neither data set could be had.

The network has all 19 classes; the mean is over the 16 that SYNTHIA has (not terrain, truck, train). For the 13 of
older tables (not wall, fence, pole either): --config.eval.classes="(0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)".
"""

import ml_collections

from configs import gta5_to_cityscapes_adaptsegnet
from uda_jax.data.labels import NAMES


def get_config() -> ml_collections.ConfigDict:
    return on_synthia(gta5_to_cityscapes_adaptsegnet.get_config())


def on_synthia(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A config of GTA5 to Cityscapes with SYNTHIA for a source."""
    config.data.source.update(dataset="synthia", size=(760, 1280))
    config.eval.classes = tuple(i for i, name in enumerate(NAMES) if name not in ("terrain", "truck", "train"))
    return config
