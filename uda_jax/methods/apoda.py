"""Yang et al., "An Adversarial Perturbation Oriented Domain Adaptation Approach for Semantic Segmentation", AAAI 2020.

A reconstruction from the abstract, TAT (Liu et al., ICML 2019) and AdaptSegNet: docs/apoda.md says what is known. After
a warm-up by AdaptSegNet's single-level step, the features f of both domains are moved towards the other domain and
against the classifier, and the classifier is trained to be invariant to that.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.data.labels import NAMES
from uda_jax.methods.attack import Term, perturb
from uda_jax.methods.contract import Aux, Context, Method, Scalars
from uda_jax.methods.game import (
    DOMAINS,
    TRUTH,
    TWO_DOMAINS,
    ByDomain,
    Maps,
    adversarial_loss,
    domain_game,
    domain_logits,
    map_shapes,
    segment_both,
)
from uda_jax.methods.health import predicted
from uda_jax.methods.losses import cross_entropy, divergence, domain_accuracy, domain_loss, entropy_loss
from uda_jax.methods.supervised import supervised_loss
from uda_jax.models.layers import at_least_float32
from uda_jax.models.networks import Networks, build_networks
from uda_jax.models.segmenter import Outputs

CHOICES = {  # the first is the default
    "gan": ("vanilla", "least_squares"),
    "discriminator_input": ("prediction", "feature"),
    "attack": ("sign", "position", "noise", "map"),
    "attack_order": ("joint", "sequential"),
    "target_attack": ("pseudo_label", "l2", "kl"),
    "perturbed_losses_train": ("classifier", "classifier+backbone"),
    "consistency": ("l2", "kl"),
}
BOUNDS = {
    name: (0, math.inf) for name in ("warmup_steps", "attack_steps", "eps_discriminator", "eps_source", "eps_target")
}
LEAST_CLASSES = 2  # the entropy is a share of log(classes)


def default_config() -> ml_collections.ConfigDict:
    """The reconstruction's setting (docs/apoda.md)."""
    return ml_collections.ConfigDict(
        {name: choices[0] for name, choices in CHOICES.items()}
        | {
            "warmup_steps": 0,  # of AdaptSegNet, before the first attack
            "lambda_adv_main": 0.001,  # in the warm-up, and after it if
            "adversarial_after_warmup": True,
            "attack_steps": 3,  # K
            "eps_discriminator": 0.01,  # eps1, both domains
            "eps_source": 0.002,  # eps2, against the cross entropy
            "eps_target": 0.011,  # eps3, against the own prediction
            "relative_eps": False,  # in units of the RMS of an image's features
            "lambda_perturbed_source": 1.0,  # a1
            "lambda_consistency": 1.0,  # a2
            "lambda_ent_main": 0.1,  # a3
        }
    )


def build(config: ml_collections.ConfigDict, networks: Networks) -> Method:
    def segmenter_loss(params: Any, context: Context) -> tuple[jax.Array, Aux]:
        outputs, stats = segment_both(networks, params, context)
        loss, metrics = objective(params, outputs, context, config, networks)
        return loss, Aux(stats, metrics, outputs)

    def discriminator_loss(discriminators: Any, context: Context, outputs: ByDomain) -> tuple[jax.Array, Scalars]:
        """On the clean outputs."""
        return domain_game(discriminators, outputs, maps_of(config), config.apoda.gan, networks)

    return Method(TWO_DOMAINS, segmenter_loss, {"main": _shape_of_input(config, networks)}, discriminator_loss)


def maps_of(config: ml_collections.ConfigDict) -> Maps:
    """What the discriminator looks at, in the game and in the attack alike."""
    return None if config.apoda.discriminator_input == "feature" else jax.nn.softmax


def _shape_of_input(config: ml_collections.ConfigDict, networks: Networks) -> tuple[int, int, int]:
    if config.apoda.discriminator_input == "prediction":
        return map_shapes(config)["main"]
    images = jax.ShapeDtypeStruct((1, *config.data.source.size, 3), jnp.uint8)
    outputs, _ = jax.eval_shape(partial(networks.segmenter.init_with_output, train=False), jax.random.key(0), images)
    return outputs.features.shape[1:]


def objective(
    params: Any, outputs: ByDomain, context: Context, config: ml_collections.ConfigDict, networks: Networks
) -> tuple[jax.Array, Scalars]:
    """CE(source), plus the adversarial loss in the warm-up, plus the perturbed losses and the entropy after it.

    With `adversarial_after_warmup` the adversarial loss stays. Metrics of the phase that is not running are zero.
    """
    c = config.apoda
    label, discriminators = context.batch["source_label"], context.discriminators
    loss, metrics = supervised_loss(outputs["source"], label, 0.0)
    metrics |= predicted(outputs["target"].main, "target")

    def adversarial() -> tuple[jax.Array, Scalars]:
        return adversarial_loss(discriminators, outputs["target"], maps_of(config), c, networks)

    def invariant() -> tuple[jax.Array, Scalars]:
        loss, metrics = perturbed_loss(params, discriminators, outputs, label, context.key, config)
        metrics["loss_ent_main"] = entropy_loss(jax.nn.softmax(outputs["target"].main))
        return loss + c.lambda_ent_main * metrics["loss_ent_main"], metrics

    def warm_up() -> tuple[jax.Array, Scalars]:
        return (jnp.zeros_like(loss), {}) if c.adversarial_after_warmup else adversarial()

    parts = [either(context.step < c.warmup_steps, warm_up, invariant) if c.warmup_steps else invariant()]
    if c.adversarial_after_warmup:
        parts.append(adversarial())
    for part, more in parts:
        loss, metrics = loss + part, metrics | more
    return loss, metrics


def either(
    first: jax.Array, one: Callable[[], tuple[jax.Array, Scalars]], other: Callable[[], tuple[jax.Array, Scalars]]
) -> tuple[jax.Array, Scalars]:
    """Computes `one` where `first` holds, else `other`, never both; metrics that one of them lacks are zero there."""
    shapes = jax.eval_shape(one)[1] | jax.eval_shape(other)[1]

    def padded(branch: Callable[[], tuple[jax.Array, Scalars]]) -> tuple[jax.Array, Scalars]:
        loss, metrics = branch()
        return loss, {name: metrics.get(name, jnp.zeros(x.shape, x.dtype)) for name, x in shapes.items()}

    loss, metrics = jax.lax.cond(first, partial(padded, one), partial(padded, other))
    return loss, metrics


def perturbed_loss(
    params: Any,
    discriminator_params: Any,
    outputs: ByDomain,
    source_label: jax.Array,
    key: jax.Array,
    config: ml_collections.ConfigDict,
) -> tuple[jax.Array, Scalars]:
    """Attacks the features of both domains, then asks the classifier not to care; and says what the attack achieved.

    In float32 or better, whatever the compute dtype. Features are moved at their own size; labels, losses and what the
    discriminator sees have the size of the image, as in the rest of the game.
    """
    networks = exact_networks(config)
    clean = {d: at_least_float32(outputs[d].features) for d in DOMAINS}
    sizes = {d: outputs[d].size for d in DOMAINS}
    frozen = jax.lax.stop_gradient((params, discriminator_params))
    moved: dict[str, jax.Array] = {}
    metrics: Scalars = {}
    for i, d in enumerate(DOMAINS):
        f = jax.lax.stop_gradient(clean[d])
        terms = attacked_losses(d, f, source_label, sizes[d], *frozen, config, networks)
        c, key_d = config.apoda, jax.random.fold_in(key, i)
        moved[d] = perturb(f, terms, c.attack_steps, c.attack, key_d, c.attack_order)
        metrics |= diagnostics(d, f, moved[d], frozen[0], networks)
    loss, losses = invariance_loss(params, clean, moved, source_label, sizes, config, networks)
    accuracy = [
        _accuracy(d, networks.outputs(frozen[0], f + moved[d], sizes[d]), frozen[1], config, networks)
        for d, f in clean.items()
    ]
    return loss, losses | metrics | {"acc_d_main_perturbed": 0.5 * (accuracy[0] + accuracy[1])}


def exact_networks(config: ml_collections.ConfigDict) -> Networks:
    """The networks of `config`, computing in float32 or better whatever its `model.dtype` says.

    Nor are float32 numbers rounded to bfloat16 for products (as TPUs do by default): what is added to features, or
    what that makes of a prediction, may be smaller than such a rounding.
    """
    config = config.copy_and_resolve_references()
    config.model.dtype = jnp.promote_types(config.model.dtype, jnp.float32).name
    if config.model.precision == "default":
        config.model.precision = "high"
    return build_networks(config)


def attacked_losses(
    domain: str,
    clean: jax.Array,
    source_label: jax.Array,
    size: tuple[int, int],
    params: Any,
    discriminator_params: Any,
    config: ml_collections.ConfigDict,
    networks: Networks,
) -> list[Term]:
    """What is raised by moving one domain's features; a loss without a step size is left out.

    The discriminator's loss of naming the domain rightly, on both; the cross entropy on the source; on the target the
    distance R from the clean prediction.

    Args:
      clean: features of the domain, [B, h, w, C].
      size: of its images, (H, W).
    """
    c = config.apoda

    def game(f: jax.Array) -> jax.Array:
        outputs = networks.outputs(params, f, size)
        says = domain_logits(networks, discriminator_params["main"], outputs, "main", maps_of(config))
        return domain_loss(says, TRUTH[domain], c.gan)

    def supervised(f: jax.Array) -> jax.Array:
        return cross_entropy(networks.classify(params, f, size), source_label)

    def unlike_clean(f: jax.Array) -> jax.Array:
        logits = networks.classify(params, f, size)
        if c.target_attack == "pseudo_label":
            return cross_entropy(logits, pseudo_label)
        # At the clean point the gradient is zero but for rounding errors, of which sign() would make a full step.
        return jnp.where((f != clean).any(), divergence(logits, reference, c.target_attack), 0.0)

    reference = networks.classify(params, clean, size)
    pseudo_label = reference.argmax(-1)
    own = Term(c.eps_source, supervised) if domain == "source" else Term(c.eps_target, unlike_clean)
    unit = _rms(clean, (1, 2, 3)) if c.relative_eps else 1.0
    terms = (Term(c.eps_discriminator, game), own)
    return [Term(term.epsilon * unit, term.loss) for term in terms if term.epsilon]


def invariance_loss(
    params: Any,
    clean: dict[str, jax.Array],
    moved: dict[str, jax.Array],
    source_label: jax.Array,
    sizes: dict[str, tuple[int, int]],
    config: ml_collections.ConfigDict,
    networks: Networks,
) -> tuple[jax.Array, Scalars]:
    """a1 CE(F(f_s + d_s), y_s) + a2 C(F(f_t + d_t), F(f_t)) for given d; (loss, losses)."""
    c = config.apoda
    if c.perturbed_losses_train == "classifier":
        clean = jax.lax.stop_gradient(clean)
    logits = {d: networks.classify(params, clean[d] + moved[d], sizes[d]) for d in DOMAINS}
    reference = jax.lax.stop_gradient(networks.classify(params, clean["target"], sizes["target"]))
    losses = {
        "loss_perturbed_source": cross_entropy(logits["source"], source_label),
        "loss_consistency": divergence(logits["target"], reference, c.consistency),
    }
    loss = (
        c.lambda_perturbed_source * losses["loss_perturbed_source"] + c.lambda_consistency * losses["loss_consistency"]
    )
    return loss, losses


def diagnostics(domain: str, clean: jax.Array, moved: jax.Array, params: Any, networks: Networks) -> Scalars:
    """How far features were moved and whose prediction that changed, over the positions of the feature map.

    rms_<domain>: RMS(d) / RMS(f). flip_<domain>: share of the positions whose predicted class changed. By class, shares
    of all positions: predicted_<domain>/<class> before the attack, and flipped_<domain>/<class> those of them that
    changed; the quotient is the class's flip rate, also of averages over steps.
    """
    before = networks.classify(params, clean).argmax(-1)
    logits = networks.classify(params, clean + moved)
    flipped = logits.argmax(-1) != before
    of_class = before[..., None] == jnp.arange(logits.shape[-1])
    metrics = {
        f"rms_{domain}": _rms(moved, None) / jnp.maximum(_rms(clean, None), jnp.finfo(clean.dtype).tiny),
        f"flip_{domain}": flipped.mean(dtype=clean.dtype),
    }
    for what, share in (("predicted", of_class), ("flipped", of_class & flipped[..., None])):
        for i, mean in enumerate(share.mean((0, 1, 2), dtype=clean.dtype)):
            metrics[f"{what}_{domain}/{NAMES[i] if i < len(NAMES) else f'class {i}'}"] = mean
    return metrics


def _accuracy(
    domain: str, outputs: Outputs, discriminator_params: Any, config: ml_collections.ConfigDict, networks: Networks
) -> jax.Array:
    says = domain_logits(networks, discriminator_params["main"], outputs, "main", maps_of(config))
    return domain_accuracy(jax.lax.stop_gradient(says), TRUTH[domain], config.apoda.gan)


def _rms(x: jax.Array, axes: tuple[int, ...] | None) -> jax.Array:
    return jnp.sqrt(jnp.square(x).mean(axes, keepdims=axes is not None))
