"""Own data in two folders: rendered street scenes -> photographs, on a laptop's CPU.

Command:   python -m uda_jax.compare --config=configs/rendered_to_photos.py --workdir=runs/photos
Data:      folders/rendered (train), folders/photos (train without labels, val) and, for the oracle alone,
           folders/photos_oracle (train), all built with --size=480x360; see README.md, "Your own data".
Weights:   as configs/laptop.py.
Hardware:  1 CPU core a run.
Time:      source-only and oracle 20 to 25 minutes each, two runs at a time (measured here).
Expect:    mIoU over the 11 classes, 101 images, 3 seeds (measured here): source-only 51.0 +- 1.5, oracle 67.2 +- 1.4;
           docs/photos.md has the classes, and what adaptation did on pairs that are split by sequence.

Recipe and network are those of configs/laptop.py. The mean is over the eleven classes that occur in the photographs.
"""

import ml_collections

from configs import laptop


def get_config() -> ml_collections.ConfigDict:
    config = laptop.get_config()
    config.data.source.dataset = "folders/rendered"
    config.data.target.dataset = config.data.eval.dataset = "folders/photos"
    config.data.oracle.dataset = "folders/photos_oracle"
    config.eval.classes = (0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 18)
    return config
