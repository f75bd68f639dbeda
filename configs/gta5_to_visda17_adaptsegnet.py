"""AdaptSegNet, multi-level, GTA5 -> VisDA-2017's test photographs: configs/gta5_to_cityscapes_adaptsegnet.py on them.

Command:   python -m uda_jax.main --config=configs/gta5_to_visda17_adaptsegnet.py --workdir=runs/visda17_multi \
               --config.model.pretrained=weights/resnet101.npz
Data:      data/gta5 (1280x720) and data/visda17 (1024x512) as TFRecords; see docs/data.md. Scoring needs its labels.
Hardware:  as configs/gta5_to_cityscapes_adaptsegnet.py. Time: not measured here.
Expect:    42.4 mIoU on VisDA-2017's test split (published: slides of the challenge, from another initialisation than
           the paper's). Not reproduced here: neither data set could be had.

The challenge adapts to the photographs that it scores, without their labels. It has no others, so the oracle of
`uda_jax.compare` trains on the labels that it is scored by. At what size the published entry read the photographs
is not known here; this reads them at the recipe's, and scores at theirs.

Published rows beside one's own, class by class: python -m uda_jax.report --markdown --out=report \
    source-only=runs/visda17_source AdaptSegNet=runs/visda17_multi
"""

import ml_collections

from configs import gta5_to_cityscapes_adaptsegnet


def get_config() -> ml_collections.ConfigDict:
    config = gta5_to_cityscapes_adaptsegnet.get_config()
    for stream in (config.data.target, config.data.oracle, config.data.eval):
        stream.update(dataset="visda17", split="test")
    config.data.eval.label_size = (720, 1280)
    return config
