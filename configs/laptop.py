import ml_collections

from uda_jax.config import default_config


def get_config() -> ml_collections.ConfigDict:
    config = default_config()
    config.method = "source_only"
    config.model.update(
        backbone="efficientnet_lite0",
        head="daformer",
        head_width=64,
        dropout=0.0,
        align_corners=False,
        norm="frozen",
        affine="train",
        two_levels=False,
        mean=(127.0,) * 3,
        std=(128.0,) * 3,
        bgr=False,
        dilations=(6, 12),
    )
    config.optimizer.update(
        name="adamw", learning_rate=2e-4, weight_decay=0.01, warmup_steps=100, power=1.0, schedule_steps=1000
    )
    for stream in (config.data.source, config.data.target, config.data.oracle):
        stream.update(size=(240, 320), flip=True, jitter=0.4)
    config.data.eval.size = (240, 320)
    config.train.update(steps=1000, batch_size=2, log_every=10, eval_every=500, checkpoint_every=200)
    config.discriminator.width = 32
    return config
