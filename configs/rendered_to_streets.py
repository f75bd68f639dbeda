"""Rendered street scenes with labels -> photographs of streets that nobody trained on, on a laptop's CPU.

Command:   python -m uda_jax.compare --config=configs/rendered_to_streets.py --workdir=runs/streets --seeds=3
           (--config.method=advent, minent, dacs, daformer or mic for the others)
Data:      folders/rendered (train), folders/streets (train without labels, val) and, for the oracle alone,
           folders/streets_oracle (train): docs/photos.md, "Split by sequence".
Weights:   as configs/laptop.py.
Hardware:  1 CPU core a run.
Time:      source-only and oracle 15 minutes each, AdaptSegNet 37 (measured here).
Expect:    mIoU over the 11 classes, 101 images, 3 seeds (measured here): source-only 43.9 +- 0.4, AdaptSegNet
           44.0 +- 0.4, oracle 43.0 +- 0.4: no gap to close after so few steps.

As configs/day_to_dusk.py but for the data. The last tenth of the rendered scenes scores the source.
"""

import ml_collections

from configs import day_to_dusk


def get_config() -> ml_collections.ConfigDict:
    config = day_to_dusk.get_config()
    config.method = "adaptsegnet"
    config.data.source.update(dataset="folders/rendered", split="train[:204]")
    config.eval.source_split = "train[204:]"
    config.data.target.dataset = config.data.eval.dataset = "folders/streets"
    config.data.oracle.dataset = "folders/streets_oracle"
    return config
