"""DAFormer's recipe with the labels of 100 Cityscapes images beside the unlabelled ones: semi-supervised adaptation.

Command:   python -m uda_jax.main --config=configs/gta5_to_cityscapes_daformer_100_labels.py --workdir=runs/gta5_100 \
               --config.model.pretrained=weights/resnet101_v1c.npz
Data and hardware: as configs/gta5_to_cityscapes_daformer.py, and Cityscapes' train split with its labels. One forward
           and backward pass more a step. Time: not measured here.
Expect:    nothing published for this recipe, and nothing measured here.

Any method takes a few labels: `config.few_labels.split` names images of `config.data.oracle`. Images of a city lie side
by side in the split, so the hundred are twenty times five from all over it.
"""

import ml_collections

from configs import gta5_to_cityscapes_daformer

SPLIT = "+".join(f"train[{first}:{first + 5}]" for first in range(0, 20 * 148, 148))  # of 2,975 images


def get_config() -> ml_collections.ConfigDict:
    config = gta5_to_cityscapes_daformer.get_config()
    config.few_labels.split = SPLIT
    return config
