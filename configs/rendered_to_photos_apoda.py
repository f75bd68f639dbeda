"""APODA (reconstructed: docs/apoda.md) from rendered street scenes to photographs, on a laptop's CPU.

Command:   python -m benchmarks.ablation --config=configs/rendered_to_photos_apoda.py --workdir=runs/photos_ablation
           (one run: python -m uda_jax.main --config=configs/rendered_to_photos_apoda.py --workdir=runs/photos_apoda)
Data:      folders/rendered and folders/photos, and weights, as configs/rendered_to_photos.py says.
Hardware:  1 CPU core a run.
Time:      not measured.
Expect:    not measured yet on this network, which finds small objects. On an earlier one, which found none, no variant
           was told from AdaptSegNet: docs/apoda_ablation.md.

The first two thirds of the steps are warm-up, which all variants share. Attacks are in units of the features' RMS.
"""

import ml_collections

from configs import rendered_to_photos


def get_config() -> ml_collections.ConfigDict:
    config = rendered_to_photos.get_config()
    config.method = "apoda"
    config.apoda.update(warmup_steps=1000, relative_eps=True)
    return config
