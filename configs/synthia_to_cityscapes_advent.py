"""AdvEnt (adversarial entropy minimisation): SYNTHIA -> Cityscapes, the published recipe (Vu et al., CVPR 2019).

Command:   python -m uda_jax.main --config=configs/synthia_to_cityscapes_advent.py --workdir=runs/synthia_advent \
               --config.model.pretrained=weights/resnet101.npz
Data and hardware: as configs/synthia_to_cityscapes_adaptsegnet.py. Time: not measured here.
Expect:    40.8 mIoU over 16 classes and 47.6 over 13 on Cityscapes val (published). Not reproduced here.

ADVENT's networks sum all four dilation rates; on SYNTHIA it stops at 90,000 of the 250,000 steps of the schedule.
"""

import ml_collections

from configs import synthia_to_cityscapes_adaptsegnet


def get_config() -> ml_collections.ConfigDict:
    config = synthia_to_cityscapes_adaptsegnet.get_config()
    config.method = "advent"
    config.model.dilations = (6, 12, 18, 24)
    config.train.steps = 90_000
    return config
