"""APODA, GTA5 -> Cityscapes, after Yang et al. (AAAI 2020), reconstructed: docs/apoda.md says what is known of it.

Command:   python -m uda_jax.main --config=configs/gta5_to_cityscapes_apoda.py --workdir=runs/gta5_apoda \
               --config.model.pretrained=weights/resnet101.npz
           and with VGG-16: --config=configs/gta5_to_cityscapes_apoda.py:vgg16 (and its weights)
Data and hardware: as configs/gta5_to_cityscapes_adaptsegnet.py.
Time:      not measured on an accelerator. On 2 CPU cores a step at 512x256 takes 1.15 times as long as one of
           AdaptSegNet, 8.7 s (measured here: python -m benchmarks.step --config=configs/gta5_to_cityscapes_apoda.py
           --methods=adaptsegnet,apoda --size=512x256).
Expect:    45.9 mIoU on Cityscapes val with ResNet-101, 38.0 with VGG-16 (published). Not reproduced here: neither data
           set could be had, and the paper's constants are not known.

Networks, game and optimizers are single-level AdaptSegNet's, from which the warm-up takes its step; the attack's
settings are the defaults of `uda_jax.methods.apoda`.
"""

import ml_collections

from configs import gta5_to_cityscapes_adaptsegnet


def get_config(backbone: str = "resnet101") -> ml_collections.ConfigDict:
    config = gta5_to_cityscapes_adaptsegnet.get_config()
    config.method = "apoda"
    config.apoda.warmup_steps = 50_000
    config.model.update(backbone=backbone, two_levels=False)
    return config
