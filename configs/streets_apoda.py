"""APODA (reconstructed: docs/apoda.md) on the embedded pair, streets/rendered -> streets/camera.

Command:   python -m data_prep.build --dataset=streets --out=data
           python -m uda_jax.compare --config=configs/streets_apoda.py --workdir=runs/streets_apoda
           and the ablation: python -m benchmarks.ablation --workdir=runs/ablation
Hardware:  2 CPU cores.
Time:      APODA 5 minutes, the ablation 55 minutes a seed, each on one core while another training had the other
           (measured here).
Expect:    mIoU over 3 seeds (measured here): 18.6 +- 0.4, AdaptSegNet 18.2 +- 0.5, source-only 15.3 +- 0.3;
           docs/apoda_ablation.md has the rest, and says how these were scored.

Network, schedule and game are those of configs/demo.py; the warm-up is the first third. The narrow network's features
have another scale than a pretrained one's, so steps are given in units of their RMS.
"""

import ml_collections

from configs import demo


def get_config() -> ml_collections.ConfigDict:
    config = demo.get_config()
    config.method = "apoda"
    config.apoda.update(warmup_steps=800, relative_eps=True, gan="least_squares", lambda_adv_main=0.05)
    return config
