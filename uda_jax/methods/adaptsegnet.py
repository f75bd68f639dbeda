"""Tsai et al., "Learning to Adapt Structured Output Space for Semantic Segmentation", CVPR 2018.

A discriminator a level tells the softmax of the two domains apart; the segmenter makes the target's look like the
source's (eqs. 1 to 5). Single-level is either no auxiliary head (`model.two_levels = False`) or, as in the
published code, two levels with `lambda_seg_aux = lambda_adv_aux = 0`.
"""

from typing import Any

import jax
import ml_collections

from uda_jax.losses import SOURCE, TARGET, domain_accuracy, domain_loss
from uda_jax.methods.source_only import supervised_loss
from uda_jax.models.deeplab_v2 import Outputs

DOMAINS = ("source", "target")


def default_config() -> ml_collections.ConfigDict:
    """The paper's multi-level setting; gan is "vanilla" or "least_squares"."""
    return ml_collections.ConfigDict(
        {"lambda_seg_aux": 0.1, "lambda_adv_main": 0.001, "lambda_adv_aux": 0.0002, "gan": "vanilla"}
    )


def discriminators(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    return ("main", "aux") if config.model.two_levels else ("main",)


def segmenter_loss(
    params: Any,
    discriminator_params: Any,
    outputs: dict[str, Outputs],
    batch: dict[str, jax.Array],
    step: jax.Array,
    key: jax.Array,
    config: ml_collections.ConfigDict,
    networks: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    del params, step, key
    c = config.adaptsegnet
    loss, metrics = supervised_loss(outputs["source"], batch["source_label"], c.lambda_seg_aux)
    adversarial, more = adversarial_loss(discriminator_params, outputs["target"], softmax_of, c, networks)
    return loss + adversarial, {**metrics, **more}


def discriminator_loss(
    discriminator_params: Any, outputs: dict[str, Outputs], config: ml_collections.ConfigDict, networks: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Half the source loss plus half the target loss, summed over the levels (eq. 2)."""
    return domain_game(discriminator_params, outputs, softmax_of, config.adaptsegnet.gan, networks)


def discriminator_input(outputs: Outputs, level: str, config: ml_collections.ConfigDict) -> jax.Array:
    del config
    return softmax_of(outputs, level)


def softmax_of(outputs: Outputs, level: str) -> jax.Array:
    """What the discriminators look at, [B, H, W, classes]."""
    return jax.nn.softmax(outputs.level(level))


def adversarial_loss(
    discriminator_params: Any, outputs: Outputs, maps: Any, settings: ml_collections.ConfigDict, networks: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """How far the target's outputs are from passing as source's (eq. 4), for any `maps(outputs, level)`.

    `settings` holds `gan` and a weight `lambda_adv_<level>` for every level.
    """
    loss, metrics = jax.numpy.zeros(()), {}
    for level, params in discriminator_params.items():
        adversarial = domain_loss(networks.discriminate(params, maps(outputs, level)), SOURCE, settings.gan)
        metrics[f"loss_adv_{level}"] = adversarial
        loss = loss + settings[f"lambda_adv_{level}"] * adversarial
    return loss, metrics


def domain_game(
    discriminator_params: Any, outputs: dict[str, Outputs], maps: Any, gan: str, networks: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The discriminators' loss for any choice of what they look at: `maps(outputs, level)` -> [B, H, W, C]."""
    loss, metrics = jax.numpy.zeros(()), {}
    for level, params in discriminator_params.items():
        accuracies = []
        for domain, truth in (("source", SOURCE), ("target", TARGET)):
            domain_logits = networks.discriminate(params, maps(outputs[domain], level))
            metrics[f"loss_d_{level}_{domain}"] = domain_loss(domain_logits, truth, gan)
            accuracies.append(domain_accuracy(domain_logits, truth, gan))
            loss = loss + 0.5 * metrics[f"loss_d_{level}_{domain}"]
        metrics[f"acc_d_{level}"] = 0.5 * (accuracies[0] + accuracies[1])
    return loss, metrics
