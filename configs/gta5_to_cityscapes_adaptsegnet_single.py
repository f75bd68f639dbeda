"""AdaptSegNet, single-level, GTA5 -> Cityscapes, as published: two levels with the auxiliary weights at zero.

Command:   python -m uda_jax.main --config=configs/gta5_to_cityscapes_adaptsegnet_single.py \
               --workdir=runs/gta5_single --config.model.pretrained=weights/resnet101.npz
Data, hardware and time: as configs/gta5_to_cityscapes_adaptsegnet.py.
Expect:    41.4 mIoU on Cityscapes val (published). With --config.adaptsegnet.gan=least_squares
           --config.adaptsegnet.lambda_adv_main=0.01: 44.1 (published). Neither is reproduced here.
"""

import ml_collections

from configs import gta5_to_cityscapes_adaptsegnet


def get_config() -> ml_collections.ConfigDict:
    config = gta5_to_cityscapes_adaptsegnet.get_config()
    config.adaptsegnet.update(lambda_seg_aux=0.0, lambda_adv_main=0.001, lambda_adv_aux=0.0)
    return config
