"""Photographs by day with labels -> photographs at dusk without, on a laptop's CPU.

Command:   python -m uda_jax.compare --config=configs/day_to_dusk.py --workdir=runs/dusk --seeds=3
           (--config.method=dacs, mic, adaptsegnet, advent or minent for the others)
Data:      folders/day (train), folders/dusk (train without labels, val) and, for the oracle alone, folders/dusk_oracle
           (train): docs/photos.md, "Split by sequence".
Weights:   as configs/laptop.py.
Hardware:  1 CPU core a run.
Time:      source-only and oracle 15 to 20 minutes each, DAFormer 55, two runs and a third program at a time, in minutes
           of CPU time (measured here).
Expect:    mIoU over the 11 classes, 22 images, 3 seeds (measured here): source-only 34.4 +- 1.4, DAFormer 48.1 +- 1.2,
           oracle 51.7 +- 0.3; docs/photos.md has the others.

Recipe, network and classes are those of configs/rendered_to_photos.py, with a schedule of 1000 steps. The teacher's
memory is that of the short schedule, and no rows are ignored, as no bonnet is in the pictures; all else is published.
"""

import ml_collections

from configs import rendered_to_photos


def get_config() -> ml_collections.ConfigDict:
    config = rendered_to_photos.get_config()
    config.method = "daformer"
    for name in ("dacs", "daformer", "mic"):
        config[name].update(alpha=0.99, ignore_top=0.0, ignore_bottom=0.0)
    config.optimizer.schedule_steps = config.train.steps = 1000
    config.data.source.dataset = "folders/day"
    config.data.target.dataset = config.data.eval.dataset = "folders/dusk"
    config.data.oracle.dataset = "folders/dusk_oracle"
    return config
