"""MinEnt (direct entropy minimisation), GTA5 -> Cityscapes: the published recipe (Vu et al., CVPR 2019, table 1).

Command:   python -m uda_jax.main --config=configs/gta5_to_cityscapes_minent.py --workdir=runs/gta5_minent \
               --config.model.pretrained=weights/resnet101.npz
Data and hardware: as configs/gta5_to_cityscapes_adaptsegnet.py. Time: not measured here.
Expect:    42.3 mIoU on Cityscapes val (published). Not reproduced here.

ADVENT's networks sum all four dilation rates; it stops at 120,000 of the 250,000 steps of the schedule.
"""

import ml_collections

from configs import gta5_to_cityscapes_adaptsegnet


def get_config() -> ml_collections.ConfigDict:
    config = gta5_to_cityscapes_adaptsegnet.get_config()
    config.method = "minent"
    config.model.dilations = (6, 12, 18, 24)
    config.train.steps = 120_000
    return config
