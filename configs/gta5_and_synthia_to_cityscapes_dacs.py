"""DACS from two games at once: GTA5 and SYNTHIA, drawn from alike often, to Cityscapes.

Command:   python -m uda_jax.main --config=configs/gta5_and_synthia_to_cityscapes_dacs.py --workdir=runs/two_dacs \
               --config.model.pretrained=weights/resnet101_v1c.npz
Data:      data/gta5, data/synthia and data/cityscapes as TFRecords; both sources are resized to 1280x720, which presses
           SYNTHIA's 1280x760 by a twentieth.
Hardware:  as configs/gta5_to_cityscapes_dacs.py. Time: not measured here.
Expect:    nothing published for this recipe, and nothing measured here.

Of the 19 classes SYNTHIA lacks terrain, truck and train; GTA5 has all. Without `weights`, or with sampling by rare
classes, sets are drawn from by the number of their images: 24,966 and 9,400.
"""

import ml_collections

from configs import gta5_to_cityscapes_dacs


def get_config() -> ml_collections.ConfigDict:
    config = gta5_to_cityscapes_dacs.get_config()
    config.data.source.update(dataset="gta5+synthia", weights=(1.0, 1.0))
    return config
