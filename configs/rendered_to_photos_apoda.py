"""APODA (reconstructed: docs/apoda.md) from rendered street scenes to photographs, small enough for a CPU.

Command:   python -m benchmarks.ablation --config=configs/rendered_to_photos_apoda.py --workdir=runs/photos_ablation
           (one run: python -m uda_jax.main --config=configs/rendered_to_photos_apoda.py --workdir=runs/photos_apoda)
Data:      folders/rendered and folders/photos, and weights, as configs/rendered_to_photos.py says.
Hardware:  2 CPU cores.
Time:      the ablation takes 45 minutes a seed on one of the cores, another training on the other (measured here).
Expect:    docs/apoda_ablation.md (measured here): no variant is told from AdaptSegNet, nor that from source-only.

Crops of a sixth of the pictures' area, out of smaller pictures, and two thirds of a short schedule as warm-up, which
all variants share, so that many runs fit in the time; scored on whole pictures. The game is the demo's: on a schedule
this short, the published discriminator stays at chance for most of it.
"""

import ml_collections

from configs import rendered_to_photos


def get_config() -> ml_collections.ConfigDict:
    config = rendered_to_photos.get_config()
    config.method = "apoda"
    config.apoda.update(warmup_steps=600, relative_eps=True, gan="least_squares", lambda_adv_main=0.05)
    config.discriminator.layers = 4
    config.optimizer.update(learning_rate=1e-3, discriminator_learning_rate=1e-3, schedule_steps=1080)
    config.train.steps = 900
    for stream in (config.data.source, config.data.target, config.data.oracle):
        stream.update(crop=(96, 128), scale=(0.4, 0.8), jitter=0.4)
    return config
