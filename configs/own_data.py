"""Your own data, no code: labelled images of one domain, unlabelled images of another -> an adapted model.

Command:   python -m data_prep.build --dataset=folders --name=source --split train=SOURCE --size=640x360 --out=data
           python -m data_prep.build --dataset=folders --name=target --split train=TARGET/images \
               --split val=TARGET_VAL --size=640x360 --out=data
           python -m uda_jax.weights --from=keras:ResNet50 --to=weights/resnet50.npz
           python -m uda_jax.main --config=configs/own_data.py --workdir=runs/own
Data:      SOURCE holds images/ and labels/ (PNG of Cityscapes train ids; anything else with --label_map=FILE on both
           builds, and then --config.model.num_classes=N); TARGET/images need no labels; TARGET_VAL holds the images/
           and labels/ that the model is scored on. See docs/data.md.
           No labels in the target at all: build "source" with a --split val=... of its own, and score on that,
           --config.data.eval.dataset=folders/source. It shows that training works; it says nothing about the target.
Weights:   an ImageNet ResNet-50; docs/weights.md. Without any (worse): --config.model.pretrained= \
               --config.model.norm=batch --config.model.affine=train --config.model.init=he
Hardware:  one accelerator with about 12 GB. Time: not measured. On a CPU, or for small sets: configs/laptop.py, whose
           network learns in minutes.
Expect:    nothing in general. Compare with source-only before believing in adaptation: python -m uda_jax.compare with
           the same flags (for its oracle, build "target_oracle" from a labelled part of the target).

AdaptSegNet on one level with batch norm frozen, so one image a step is enough. The rates are the published ones; the
schedule is an eighth of the published one, of which 60 % is run, as there. First choices, not tuned.
"""

import ml_collections

from uda_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.method = "adaptsegnet"

    config.model.update(backbone="resnet50", norm="frozen", affine="frozen", two_levels=False)
    config.model.pretrained = "weights/resnet50.npz"

    config.optimizer.schedule_steps = 32_000
    config.data.source.dataset = "folders/source"
    config.data.target.dataset = config.data.eval.dataset = "folders/target"
    config.data.oracle.dataset = "folders/target_oracle"
    for stream in (config.data.source, config.data.target, config.data.oracle):
        stream.size = (360, 640)
        stream.flip = True
    config.data.eval.size = (360, 640)
    config.train.update(steps=19_200, batch_size=1, eval_every=2_000, checkpoint_every=1_000)
    return config
