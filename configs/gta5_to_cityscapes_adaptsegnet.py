"""AdaptSegNet, multi-level, GTA5 -> Cityscapes: the published recipe (Tsai et al., CVPR 2018, table 1).

Command:   python -m uda_jax.main --config=configs/gta5_to_cityscapes_adaptsegnet.py --workdir=runs/gta5_multi \
               --config.model.pretrained=weights/resnet101.npz
Data:      data/gta5 and data/cityscapes as TFRecords, sources stored at 1280x720, targets at 1024x512.
Hardware:  one accelerator with 12 GB or more (batch of 1 + 1, float32).
Time:      not measured on an accelerator. On 2 CPU cores a step at 512x256 takes 4.3 s and 3.0 GiB (measured here:
           python -m benchmarks.step --config=configs/gta5_to_cityscapes_adaptsegnet.py --size=512x256).
Expect:    42.4 mIoU on Cityscapes val (published). Not reproduced here: neither data set could be had.

Every constant is the published code's: sizes, a poly schedule of 250,000 steps stopped at 150,000, batch norm in
training mode with frozen affine parameters, two of the four dilation rates, SGD over a list that names parameters
several times ("legacy"; see `uda_jax.training.optimizers.listed_sgd`).
"""

import ml_collections

from uda_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.method = "adaptsegnet"
    config.adaptsegnet.update(lambda_seg_aux=0.1, lambda_adv_main=0.001, lambda_adv_aux=0.0002, gan="vanilla")
    config.optimizer.variant = "legacy"

    config.data.source.update(dataset="gta5", size=(720, 1280))
    for stream in (config.data.target, config.data.oracle):
        stream.update(dataset="cityscapes", size=(512, 1024))
    config.data.eval.update(dataset="cityscapes", split="val", size=(512, 1024), label_size=(1024, 2048))
    return config
