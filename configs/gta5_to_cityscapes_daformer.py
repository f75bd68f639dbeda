"""DAFormer's recipe on DeepLab-v2, GTA5 -> Cityscapes (Hoyer et al., CVPR 2022, table 5).

Command:   python -m uda_jax.main --config=configs/gta5_to_cityscapes_daformer.py --workdir=runs/gta5_daformer \
               --config.model.pretrained=weights/resnet101_v1c.npz
Data and hardware: as configs/gta5_to_cityscapes_dacs.py. Time: not measured here.
Expect:    57.6 mIoU on Cityscapes val (published, mean of 3 seeds). Not reproduced here.

DACS, and: rare classes are sampled more often, features of things stay near those of the pretrained network, and the
teacher is slower. Without pretrained weights that distance would be to random features: they belong to the recipe.
"""

import ml_collections

from configs import gta5_to_cityscapes_dacs


def get_config() -> ml_collections.ConfigDict:
    config = gta5_to_cityscapes_dacs.get_config()
    config.method = "daformer"
    config.data.source.update(sampling="rare_class", rare_temperature=0.01, rare_pixels=3000, rare_crop_ratio=0.5)
    return config
