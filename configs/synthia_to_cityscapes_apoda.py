"""APODA, SYNTHIA -> Cityscapes, after Yang et al. (AAAI 2020), reconstructed: docs/apoda.md says what is known of it.

Command:   python -m uda_jax.main --config=configs/synthia_to_cityscapes_apoda.py --workdir=runs/synthia_apoda \
               --config.model.pretrained=weights/resnet101.npz
           and with VGG-16: --config=configs/synthia_to_cityscapes_apoda.py:vgg16 (and its weights)
Data:      data/synthia (SYNTHIA-RAND-CITYSCAPES) and data/cityscapes as TFRecords, sources stored at 1280x760.
Hardware:  as configs/gta5_to_cityscapes_adaptsegnet.py.
Time:      not measured on an accelerator.
Expect:    53.1 mIoU over 13 classes of Cityscapes val with ResNet-101, 41.1 with VGG-16 (published). Not reproduced
           here: neither data set could be had, and the paper's constants are not known.

As configs/gta5_to_cityscapes_apoda.py; the 13 classes are the published ones, without wall, fence and pole and without
the three that SYNTHIA does not have.
"""

import ml_collections

from configs import gta5_to_cityscapes_apoda


def get_config(backbone: str = "resnet101") -> ml_collections.ConfigDict:
    config = gta5_to_cityscapes_apoda.get_config(backbone)
    config.data.source.update(dataset="synthia", size=(760, 1280))
    config.eval.classes = (0, 1, 2, 6, 7, 8, 10, 11, 12, 13, 15, 17, 18)
    return config
