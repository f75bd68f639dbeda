"""DACS on DeepLab-v2, SYNTHIA -> Cityscapes: the GTA5 config on SYNTHIA.

Command:   python -m uda_jax.main --config=configs/synthia_to_cityscapes_dacs.py --workdir=runs/synthia_dacs \
               --config.model.pretrained=weights/resnet101_v1c.npz
Data:      data/synthia (1280x760) and data/cityscapes (1024x512) as TFRecords; see docs/data.md.
Hardware:  as configs/gta5_to_cityscapes_dacs.py. Time: not measured here.
Expect:    48.3 mIoU over 16 classes on Cityscapes val (published, of the paper's own code). Not reproduced here.

The network has all 19 classes; the mean is over the 16 that SYNTHIA has (not terrain, truck, train).
"""

import ml_collections

from configs import gta5_to_cityscapes_dacs
from configs.synthia_to_cityscapes_adaptsegnet import on_synthia


def get_config() -> ml_collections.ConfigDict:
    return on_synthia(gta5_to_cityscapes_dacs.get_config())
