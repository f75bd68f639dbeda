"""MIC on DAFormer's recipe and DeepLab-v2, GTA5 -> Cityscapes (Hoyer et al., CVPR 2023, table 2).

Command:   python -m uda_jax.main --config=configs/gta5_to_cityscapes_mic.py --workdir=runs/gta5_mic \
               --config.model.pretrained=weights/resnet101_v1c.npz
Data and hardware: as configs/gta5_to_cityscapes_dacs.py. Time: not measured here.
Expect:    63.5 mIoU on Cityscapes val (published, mean of 3 seeds). Not reproduced here.

Masks have blocks of 32 pixels, half of the published 64 for crops of 1024, as crops of 512 are half as large.
"""

import ml_collections

from configs import gta5_to_cityscapes_daformer


def get_config() -> ml_collections.ConfigDict:
    config = gta5_to_cityscapes_daformer.get_config()
    config.method = "mic"
    config.mic.mask_block = 32
    return config
