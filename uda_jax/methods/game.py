"""The adversarial game of AdaptSegNet and its family: discriminators tell apart what the segmenter says of two domains.

A method chooses what they look at: `maps` of the logits, [..., classes] -> [..., C], at the images' size.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.methods.contract import Aux, Context, Method, Scalars, Stream
from uda_jax.methods.health import predicted
from uda_jax.methods.losses import SOURCE, TARGET, domain_accuracy, domain_loss
from uda_jax.methods.supervised import DROPOUT, supervised_loss
from uda_jax.methods.terms import after, in_turn
from uda_jax.models.networks import Networks
from uda_jax.models.segmenter import Outputs

DOMAINS = ("source", "target")
TRUTH = {"source": SOURCE, "target": TARGET}
TWO_DOMAINS = {"source": Stream(labels=True), "target": Stream()}

ByDomain = dict[str, Outputs]
Maps = Callable[[jax.Array], jax.Array] | None  # None for the features instead


def dropout_key(context: Context, domain: str) -> jax.Array:
    """Of a domain's forward pass."""
    return jax.random.fold_in(context.key, DROPOUT + DOMAINS.index(domain))


def segment_in_turn(
    networks: Networks, params: Any, context: Context, lambda_seg_aux: float
) -> tuple[jax.Array, Scalars, ByDomain, Any]:
    """(source's loss, its metrics, outputs by domain, batch statistics after both), the target after the source's
    gradient, for losses whose other terms are of the target alone."""

    def term(params: Any) -> tuple[jax.Array, Any]:
        image, key = context.batch["source_image"], dropout_key(context, "source")
        outputs, stats = networks.segment(params, context.stats, image, key)
        loss, metrics = supervised_loss(outputs, context.batch["source_label"], lambda_seg_aux)
        return loss, (outputs, stats, metrics)

    loss, (source, stats, metrics) = in_turn(term)(params)
    image = after(loss, context.batch["target_image"])
    target, stats = networks.segment(params, stats, image, dropout_key(context, "target"))
    return loss, metrics, {"source": source, "target": target}, stats


def segment_both(networks: Networks, params: Any, context: Context) -> tuple[ByDomain, Any]:
    """(outputs by domain, batch statistics after both); the source goes first, which the statistics show."""
    outputs, stats = {}, context.stats
    for domain in DOMAINS:
        image, key = context.batch[f"{domain}_image"], dropout_key(context, domain)
        outputs[domain], stats = networks.segment(params, stats, image, key)
    return outputs, stats


def levels(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    return ("main", "aux") if config.model.two_levels else ("main",)


def map_shapes(config: ml_collections.ConfigDict) -> dict[str, tuple[int, int, int]]:
    """Level -> (H, W, classes), of maps with a channel a class at the size of the source's images."""
    height, width = config.data.source.size
    return {level: (height, width, config.model.num_classes) for level in levels(config)}


def domain_logits(networks: Networks, params: Any, outputs: Outputs, level: str, maps: Maps) -> jax.Array:
    """What one level's discriminator says, [B, ~H/2^layers, ~W/2^layers, 1]."""
    if maps is None:
        return networks.discriminate(params, outputs.features)
    return networks.discriminate_logits(params, outputs, level, maps)


def adversarial_loss(
    discriminators: Any, outputs: Outputs, maps: Maps, settings: ml_collections.ConfigDict, networks: Networks
) -> tuple[jax.Array, Scalars]:
    """How far the target's outputs are from passing as source's (AdaptSegNet, eq. 4).

    `settings` holds `gan` and a weight `lambda_adv_<level>` for every level.
    """
    loss, metrics = jnp.zeros(()), {}
    for level, params in discriminators.items():
        adversarial = domain_loss(domain_logits(networks, params, outputs, level, maps), SOURCE, settings.gan)
        metrics[f"loss_adv_{level}"] = adversarial
        loss = loss + settings[f"lambda_adv_{level}"] * adversarial
    return loss, metrics


def domain_game(
    discriminators: Any, outputs: ByDomain, maps: Maps, gan: str, networks: Networks
) -> tuple[jax.Array, Scalars]:
    """The discriminators' loss: half the source's and half the target's, over all levels (AdaptSegNet, eq. 2)."""
    loss, metrics = jnp.zeros(()), {}
    for level, params in discriminators.items():
        accuracies = []
        for domain, truth in TRUTH.items():
            says = domain_logits(networks, params, outputs[domain], level, maps)
            metrics[f"loss_d_{level}_{domain}"] = domain_loss(says, truth, gan)
            accuracies.append(domain_accuracy(says, truth, gan))
            metrics[f"acc_d_{level}_{domain}"] = accuracies[-1]
            loss = loss + 0.5 * metrics[f"loss_d_{level}_{domain}"]
        metrics[f"acc_d_{level}"] = 0.5 * (accuracies[0] + accuracies[1])
    return loss, metrics


def adversarial_method(
    config: ml_collections.ConfigDict, networks: Networks, settings: ml_collections.ConfigDict, maps: Maps
) -> Method:
    """CE on the source plus the weighted adversarial losses of the target's maps, against `domain_game`.

    `settings` as in `adversarial_loss`, and `lambda_seg_aux`.
    """

    def segmenter_loss(params: Any, context: Context) -> tuple[jax.Array, Aux]:
        loss, metrics, outputs, stats = segment_in_turn(networks, params, context, settings.lambda_seg_aux)
        adversarial, more = adversarial_loss(context.discriminators, outputs["target"], maps, settings, networks)
        metrics |= more | predicted(outputs["target"].main, "target")
        return loss + adversarial, Aux(stats, metrics, outputs)

    def discriminator_loss(discriminators: Any, context: Context, outputs: ByDomain) -> tuple[jax.Array, Scalars]:
        return domain_game(discriminators, outputs, maps, settings.gan, networks)

    return Method(TWO_DOMAINS, segmenter_loss, map_shapes(config), discriminator_loss)
