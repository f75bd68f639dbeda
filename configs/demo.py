"""AdaptSegNet on the embedded pair, streets/rendered -> streets/camera, small enough for a laptop.

Command:   make demo
           (python -m data_prep.build --dataset=streets --out=data
            python -m uda_jax.compare --config=configs/demo.py --workdir=runs/demo)
Hardware:  2 CPU cores.
Time:      5 min 11 s on 2 cores with drawing the data and compiling (measured here).
Expect:    mIoU over 3 seeds (measured here): source-only 13.5 +- 0.5, AdaptSegNet 15.3 +- 1.0, oracle 21.8 +- 0.8.

A narrow ResNet-18 from random weights; one level; the least-squares game, with which the published code reached its
best number, at a weight that keeps the discriminator from winning. Both learning rates are larger than the published
ones, for a schedule that is hundreds of times shorter; as there, 60 % of it is run.
"""

import ml_collections

from uda_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.method = "adaptsegnet"
    config.adaptsegnet.update(gan="least_squares", lambda_adv_main=0.05)

    config.model.update(
        backbone="resnet18", stem="small", stem_width=32, width=16, init="he", affine="train", two_levels=False
    )
    config.model.std = (60.0, 60.0, 60.0)
    config.discriminator.width = 16

    config.optimizer.update(
        learning_rate=0.02, head_multiplier=1.0, discriminator_learning_rate=1e-3, schedule_steps=1000
    )
    for stream in (config.data.source, config.data.target, config.data.oracle):
        stream.size = (128, 256)
        stream.flip = True
    config.data.eval.size = (128, 256)
    config.train.update(steps=600, batch_size=2, log_every=20, eval_every=150, checkpoint_every=300)
    config.eval.update(batch_size=4, limit=24)
    return config
