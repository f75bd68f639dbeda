import ml_collections

from uda_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.method = "adaptsegnet"
    config.model.update(
        backbone="efficientnet_lite0",
        head="daformer",
        head_width=64,
        align_corners=False,
        norm="frozen",
        affine="train",
        two_levels=False,
        mean=(127.0,) * 3,
        std=(128.0,) * 3,
        bgr=False,
        pretrained="weights/efficientnet_lite0.npz",
    )
    config.discriminator.width = 32
    config.optimizer.update(
        name="adamw", learning_rate=2e-4, weight_decay=0.01, warmup_steps=100, power=1.0, schedule_steps=1000
    )
    for stream in (config.data.source, config.data.target, config.data.oracle):
        stream.update(size=(360, 480), crop=(240, 320), scale=(0.7, 1.4), flip=True, jitter=0.4)
    config.data.source.dataset = "folders/rendered"
    config.data.target.dataset = config.data.eval.dataset = "folders/photos"
    config.data.oracle.dataset = "folders/photos_oracle"
    config.data.eval.size = (360, 480)
    config.train.update(steps=1000, batch_size=2, log_every=10, eval_every=500, checkpoint_every=500)
    config.eval.classes = (0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 18)
    return config
