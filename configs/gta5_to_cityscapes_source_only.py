"""Source-only on GTA5, scored on Cityscapes: the baseline of configs/gta5_to_cityscapes_adaptsegnet.py.

Command:   python -m uda_jax.main --config=configs/gta5_to_cityscapes_source_only.py --workdir=runs/gta5_source \
               --config.model.pretrained=weights/resnet101.npz
Data and hardware: as configs/gta5_to_cityscapes_adaptsegnet.py. Time: not measured here.
Expect:    36.6 mIoU on Cityscapes val (published in the paper; 32.33 on the VisDA-2017 slides, from another
           initialisation). Not reproduced here.
"""

import ml_collections

from configs import gta5_to_cityscapes_adaptsegnet


def get_config() -> ml_collections.ConfigDict:
    config = gta5_to_cityscapes_adaptsegnet.get_config()
    config.method = "source_only"
    return config
