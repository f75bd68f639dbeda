"""Own data in two folders: rendered street scenes -> photographs, with a backbone that a CPU can train.

Command:   python -m uda_jax.compare --config=configs/rendered_to_photos.py --workdir=runs/photos
Data:      folders/rendered (train), folders/photos (train without labels, val) and, for the oracle alone,
           folders/photos_oracle (train), all built with --size=320x240; see README.md, "Your own data".
Weights:   weights/resnet50_halfwidth.npz, a ResNet-50 of half width under torchvision's names, Caffe-style (stride in
           the first 1x1, BGR minus the mean), its batch norm folded; --config.model.pretrained=... names another file.
Hardware:  2 CPU cores.
Time:      a step takes about 0.5 s (source-only, oracle) or 1.1 s (AdaptSegNet) alone on the machine (measured here).
Expect:    mIoU over the 11 classes, 101 images, one seed (measured here): source-only 25.8, AdaptSegNet 27.7, oracle
           41.1; 227 rendered images with labels, 367 photographs without.

Batch norm is frozen, so one image a step is enough. The learning rate is four times the published one, for a schedule
that is a two-hundredth of its length, and the discriminator has half the published width: first choices, not tuned. The
mean is over the eleven classes that occur in the photographs.
"""

import ml_collections

from uda_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.method = "adaptsegnet"

    config.model.update(backbone="resnet50", width=32, norm="frozen", affine="frozen", two_levels=False)
    config.model.pretrained = "weights/resnet50_halfwidth.npz"
    config.model.mean = (123.0, 117.0, 104.0)
    config.discriminator.width = 32

    config.optimizer.update(learning_rate=1e-3, schedule_steps=1200)
    config.data.source.dataset = "folders/rendered"
    config.data.target.dataset = config.data.eval.dataset = "folders/photos"
    config.data.oracle.dataset = "folders/photos_oracle"
    for stream in (config.data.source, config.data.target, config.data.oracle):
        stream.size = (240, 320)
        stream.flip = True
    config.data.eval.size = (240, 320)
    config.train.update(steps=1000, batch_size=1, log_every=10, eval_every=300, checkpoint_every=200)
    config.eval.limit = 40
    config.eval.classes = (0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 18)
    return config
