"""DACS, GTA5 -> Cityscapes, as DAFormer's repository runs it on DeepLab-v2 (Tranheden et al., WACV 2021).

Command:   python -m uda_jax.main --config=configs/gta5_to_cityscapes_dacs.py --workdir=runs/gta5_dacs \
               --config.model.pretrained=weights/resnet101_v1c.npz
Data:      data/gta5 and data/cityscapes as TFRecords, sources stored at 1280x720, targets at 1024x512.
Hardware:  one accelerator with 24 GB or more (batch of 2 + 2, float32). Time: not measured here.
Expect:    52.1 mIoU on Cityscapes val (published, of the paper's own code: SGD, 250,000 steps, COCO weights); 55.9 in
           an independent rerun. Not reproduced here: neither data set could be had.

The network is mmsegmentation's: ResNet-101 with three 3x3 for a stem ("v1c", weights in docs/weights.md), its batch
norm trained, and the two dilation rates that AdaptSegNet's head sums. The published loader also looks for crops of
which no class covers three quarters (ten tries); here a crop is taken as it comes.
"""

import ml_collections

from uda_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.method = "dacs"
    config.model.update(
        stem="deep",
        stride_in_1x1=False,
        affine="train",
        two_levels=False,
        align_corners=False,
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
        bgr=False,
    )
    config.optimizer.update(
        name="adamw",
        learning_rate=6e-5,
        weight_decay=0.01,
        power=1.0,
        warmup_steps=1500,
        schedule_steps=40_000,
    )
    config.train.update(steps=40_000, batch_size=2, eval_every=4_000)

    config.data.source.update(dataset="gta5", size=(720, 1280), crop=(512, 512), flip=True)
    for stream in (config.data.target, config.data.oracle):
        stream.update(dataset="cityscapes", size=(512, 1024), crop=(512, 512), flip=True)
    config.data.eval.update(dataset="cityscapes", split="val", size=(512, 1024), label_size=(1024, 2048))
    return config
