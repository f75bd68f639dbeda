"""Source-only on GTA5, scored on VisDA-2017's test photographs: baseline of configs/gta5_to_visda17_adaptsegnet.py.

Command:   python -m uda_jax.main --config=configs/gta5_to_visda17_source_only.py --workdir=runs/visda17_source \
               --config.model.pretrained=weights/resnet101.npz
Data and hardware: as configs/gta5_to_visda17_adaptsegnet.py. Time: not measured here.
Expect:    30.3 mIoU on VisDA-2017's test split (published: slides of the challenge, from another initialisation than
           the paper's). Not reproduced here.
"""

import ml_collections

from configs import gta5_to_visda17_adaptsegnet


def get_config() -> ml_collections.ConfigDict:
    config = gta5_to_visda17_adaptsegnet.get_config()
    config.method = "source_only"
    return config
