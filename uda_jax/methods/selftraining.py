"""Self-training with a teacher and mixed domains: what DACS, DAFormer and MIC share.

In a step the student learns from the source; a teacher, its moving average, labels the target; half of the source's
classes are pasted onto the target, and the student learns from the mixture, where the target's pixels count as much as
the teacher is sure of them. DAFormer keeps its features near a frozen network's, MIC hides parts of the target.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from uda_jax.errors import UserError
from uda_jax.methods import masking, mixing
from uda_jax.methods.colours import Colours, draw_colours, recoloured
from uda_jax.methods.contract import Aux, Context, Method, Scalars, Stream, student
from uda_jax.methods.feature_distance import feature_distance
from uda_jax.methods.health import predicted
from uda_jax.methods.losses import cross_entropy, weighted_cross_entropy
from uda_jax.methods.supervised import DROPOUT
from uda_jax.methods.teacher import momentum, moved
from uda_jax.methods.terms import after, in_turn
from uda_jax.models.layers import at_least_float32
from uda_jax.models.networks import Networks
from uda_jax.models.segmenter import Outputs

STREAMS = {"source": Stream(labels=True), "target": Stream(views=("weak",))}
CHOICES = {  # the first is the default
    "teacher_moves": ("before", "after"),
    "teacher_mode": ("train", "eval"),
    "teacher_stats": ("own", "averaged"),
    "weight_of": ("batch", "image", "pixel"),
    "source_mean": ("all", "valid"),
    "scored": ("student", "teacher"),
    **mixing.CHOICES,
}
LEAST_CLASSES = 2  # of one class a teacher is always sure
SHARE = (0, 1)
BOUNDS = {
    "alpha": SHARE,
    "threshold": SHARE,
    "ignore_top": SHARE,
    "ignore_bottom": SHARE,
    "jitter": SHARE,
    "jitter_probability": SHARE,
    "blur_probability": SHARE,
    "feature_share": SHARE,
    "mask_ratio": SHARE,
    "start_step": (0, math.inf),
    "mask_block": (1, math.inf),
}
THINGS = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)  # of Cityscapes' train ids: lights, signs, and all that moves
MIXED, COLOURS, BLOCKS, HIDDEN_COLOURS, NETWORKS = range(5)  # what a step's randomness is for


def default_config(**changed: Any) -> ml_collections.ConfigDict:
    """DACS as DAFormer's repository runs it, with some settings changed."""
    return ml_collections.ConfigDict(
        {name: choices[0] for name, choices in CHOICES.items()}
        | {
            "alpha": 0.99,  # how much of itself the teacher keeps in a step, once it is that old
            "threshold": 0.968,  # a pixel's class is sure from this probability on
            # Shares of the target's rows, at its top and bottom, that count nothing: sky and bonnet confuse teachers.
            "ignore_top": 0.0,
            "ignore_bottom": 0.0,
            "paste_ignored": True,  # whether source pixels without a label may be pasted, as a class
            "start_step": 0,  # of the mixtures; before it the source alone is learnt
            "jitter": 0.2,  # strength of the mixtures' colours
            "jitter_probability": 0.8,
            "blur_probability": 0.5,
            "lambda_mixed": 1.0,
            "lambda_distance": 0.0,  # DAFormer's feature distance
            "feature_classes": THINGS,  # () for all positions
            "feature_share": 0.75,  # of a position's pixels that have its class
            "lambda_masked": 0.0,  # MIC's masked images
            "mask_block": 64,  # pixels
            "mask_ratio": 0.7,  # share that is hidden
        }
        | changed
    )


class Draws(NamedTuple):
    """All randomness of a step but dropout.

    Attributes:
      pasted: bool [B, classes + 1], see `mixing.choose_classes`.
      mixed, hidden: colours of the mixtures and of the masked images.
      blocks: [B, h, w] in 0..1, see `masking`.
    """

    pasted: jax.Array
    mixed: Colours
    blocks: jax.Array
    hidden: Colours


def draw(context: Context, settings: ml_collections.ConfigDict, classes: int) -> Draws:
    label, c = context.batch["source_label"], settings
    images, height, width = context.batch["target_weak"].shape[:3]
    strong = c.jitter, c.jitter_probability, c.blur_probability

    def key(of: int) -> jax.Array:
        return jax.random.fold_in(context.key, of)

    return Draws(
        mixing.choose_classes(key(MIXED), label, classes, c.classes_of, c.paste_ignored),
        draw_colours(key(COLOURS), images, *strong),
        jax.random.uniform(key(BLOCKS), (images, *masking.grid((height, width), c.mask_block))),
        draw_colours(key(HIDDEN_COLOURS), images, *strong, alike=True),
    )


def labelled(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What a network says and how sure it is: (train ids int32, largest probability), each [B, H, W]."""
    probability = jax.nn.softmax(at_least_float32(jax.lax.stop_gradient(logits)))
    return probability.argmax(-1).astype(jnp.int32), probability.max(-1)


def pseudo_labels(logits: jax.Array, settings: ml_collections.ConfigDict) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What the teacher says: (train ids int32 [B, H, W], their pixels' weights [B, H, W], share of sure pixels []).

    As published the weight is that share, one number a batch; with `weight_of` an image's own, or one or zero a pixel.
    Rows to be ignored count in the share, and weigh nothing.
    """
    classes, confidence = labelled(logits)
    sure = (confidence >= settings.threshold).astype(confidence.dtype)
    over = {"batch": (0, 1, 2), "image": (1, 2), "pixel": ()}[settings.weight_of]
    height = logits.shape[1]
    rows = jnp.arange(height)[:, None]
    top, bottom = round(height * settings.ignore_top), round(height * settings.ignore_bottom)
    counts = (rows >= top) & (rows < height - bottom)
    weight = jnp.where(counts, jnp.broadcast_to(sure.mean(over, keepdims=True), sure.shape), 0)
    return classes, weight, sure.mean()


class Mixture(NamedTuple):
    """What the student learns from: images [B, H, W, 3] in 0..255, train ids and weights [B, H, W]."""

    images: jax.Array
    labels: jax.Array
    weights: jax.Array


def mixture(
    source: jax.Array, label: jax.Array, target: jax.Array, pseudo: jax.Array, weight: jax.Array, draws: Draws
) -> Mixture:
    """The source's chosen classes on the target, recoloured; `pseudo` and `weight` as of `pseudo_labels`.

    Images are float, in the dtype that they are to be recoloured in.
    """
    pasted = mixing.pasted_pixels(label, draws.pasted)
    return Mixture(
        _strong(mixing.paste(pasted, source, target), draws.mixed),
        mixing.paste(pasted, label, pseudo),
        mixing.paste(pasted, jnp.ones_like(weight), weight),
    )


def build(
    config: ml_collections.ConfigDict,
    networks: Networks,
    settings: ml_collections.ConfigDict,
    draw: Callable[[Context, ml_collections.ConfigDict, int], Draws] = draw,
) -> Method:
    """The method with these settings; `draw` gives a step's randomness."""
    c, mean = settings, tuple(config.model.mean)
    check_sizes(config)

    def full(images: jax.Array) -> jax.Array:
        """Images to be recoloured, in float32 or in the network's dtype if that is finer."""
        images = at_least_float32(images)
        return images.astype(jnp.promote_types(images.dtype, config.model.dtype))

    def forward(params: Any, stats: Any, images: jax.Array, context: Context, number: int) -> Any:
        key = jax.random.fold_in(jax.random.fold_in(context.key, NETWORKS), DROPOUT + number)
        return networks.segment(params, stats, images, key)

    def segmenter_loss(params: Any, context: Context) -> tuple[jax.Array, Aux]:
        def of_source(params: Any) -> tuple[jax.Array, Any]:
            outputs, stats = forward(params, context.stats, context.batch["source_image"], context, 0)
            loss, metrics = on_source(outputs, context)
            return loss, (stats, metrics)

        loss, (stats, metrics) = in_turn(of_source)(params)

        def alone() -> tuple[jax.Array, Any, Any]:
            return jnp.zeros_like(loss), stats, context.memory["batch_stats"]

        def with_target() -> tuple[tuple[jax.Array, Any, Any], Scalars]:
            return on_target(params, stats, context, loss)

        if c.start_step:
            shapes = jax.eval_shape(with_target)[1]
            nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            found = jax.lax.cond(context.step < c.start_step, lambda: (alone(), nothing), with_target)
        else:
            found = with_target()
        (more, stats, teacher_stats), more_metrics = found
        return loss + more, Aux(stats, metrics | more_metrics, teacher_stats)

    def on_source(outputs: Outputs, context: Context) -> tuple[jax.Array, Scalars]:
        label = context.batch["source_label"]
        mean_over = {"all": weighted_cross_entropy, "valid": cross_entropy}[c.source_mean]
        loss = mean_over(outputs.main, label)
        metrics = {"loss_seg_main": loss, **predicted(outputs.main, "source")}
        if c.lambda_distance:
            frozen = context.constants
            reference = networks.predict(frozen["params"], frozen["batch_stats"], context.batch["source_image"])
            assert outputs.deepest is not None and reference.deepest is not None  # both asked a backbone
            distance = feature_distance(
                outputs.deepest,
                jax.lax.stop_gradient(reference.deepest),
                label,
                tuple(c.feature_classes),
                c.feature_share,
                config.model.num_classes,
            )
            metrics["loss_distance"] = distance
            loss = loss + c.lambda_distance * distance
        return loss, metrics

    def on_target(
        params: Any, stats: Any, context: Context, source_loss: jax.Array
    ) -> tuple[tuple[jax.Array, Any, Any], Scalars]:
        target, label = after(source_loss, context.batch["target_weak"]), context.batch["source_label"]
        teacher, teacher_stats = context.memory["params"], context.memory["batch_stats"]
        if c.teacher_mode == "train":
            says, teacher_stats = networks.segment(teacher, teacher_stats, target)
        else:
            says = networks.predict(teacher, teacher_stats, target)
        pseudo, weight, sure = pseudo_labels(says.main, c)
        draws = draw(context, c, config.model.num_classes)
        mixed = mixture(full(context.batch["source_image"]), label, full(target), pseudo, weight, draws)

        def of_mixture(params: Any) -> tuple[jax.Array, Any]:
            outputs, stats_after = forward(params, stats, mixed.images, context, 1)
            loss = weighted_cross_entropy(outputs.main, mixed.labels, mixed.weights)
            return c.lambda_mixed * loss, (stats_after, {"loss_mixed": loss})

        loss, (stats, metrics) = (in_turn(of_mixture) if c.lambda_masked else of_mixture)(params)
        metrics |= {"sure_target": sure, **predicted(says.main, "target")}
        if c.lambda_masked:
            shown = masking.shown(draws.blocks, (target.shape[1], target.shape[2]), c.mask_ratio)
            image = masking.hide(_strong(full(after(loss, target)), draws.hidden), shown, mean)
            hidden, stats = forward(params, stats, image, context, 2)
            metrics["loss_masked"] = weighted_cross_entropy(hidden.main, pseudo, weight)
            loss = loss + c.lambda_masked * metrics["loss_masked"]
        return (loss, stats, teacher_stats), metrics

    def update_memory(context: Context, teacher_stats: Any, params: Any, stats: Any) -> Any:
        """A teacher that moves before a step's forward moves here with the number of that step, the next."""
        keeps = momentum(context.step + (c.teacher_moves == "before"), c.alpha)
        return {
            "params": moved(context.memory["params"], params, keeps),
            "batch_stats": moved(context.memory["batch_stats"], stats, keeps)
            if c.teacher_stats == "averaged"
            else teacher_stats,
        }

    def weights(params: Any, stats: Any, key: jax.Array | None = None) -> Any:
        del key
        return {"params": params, "batch_stats": stats}

    both: dict[str, Callable[[Any], Any]] = {"student": student, "teacher": lambda state: state.memory}
    evaluated = both.pop(c.scored)
    return Method(
        STREAMS,
        segmenter_loss,
        init_memory=weights,
        init_constants=weights if c.lambda_distance else None,
        update_memory=update_memory,
        evaluated=evaluated,
        others=both,
    )


def check_sizes(config: ml_collections.ConfigDict) -> None:
    """Raises UserError where images of the two domains, which are mixed, are not of one size."""
    sizes = {name: tuple(config.data[name].crop or config.data[name].size) for name in STREAMS}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"config.data.{name} of {w}x{h}" for name, (h, w) in sizes.items())
        raise UserError(
            f"config.method={config.method!r} mixes images of two domains, which need one size, and there are {found}; "
            "set crop=(height, width) of both to the same"
        )


def _strong(images: jax.Array, colours: Colours) -> jax.Array:
    """Images in 0..255 with these colours."""
    return 255 * recoloured(images / 255, colours)
