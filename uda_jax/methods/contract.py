"""What a method is: what it reads, what it minimises and what it remembers.

A method's file has `default_config()`, its settings, found in the config under the method's name. Of these, one that
ends in "_aux" weighs the auxiliary level, and "gan" is there if the method has discriminators. It may have `CHOICES`,
setting -> the names that it may be, the default first; `BOUNDS`, setting -> (least, most); and `LEAST_CLASSES`, how
many its losses need. And it has

    build(config, networks) -> Method

of the whole config and the networks. It knows a paper and no optimizer, mesh or loop; `uda_jax.training.step` knows
the game and no paper. What is static is closed over by `build`; what changes from step to step comes in the `Context`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Scalars = dict[str, jax.Array]
Tree = Any  # of arrays


class Stream(NamedTuple):
    """What is read of `config.data.<name>`: images of `views`, in the batch as "<name>_<view>", uint8 [B, H, W, 3].

    Attributes:
      labels: whether to read the labels too, "<name>_label", int32 [B, H, W].
      views: "image", as the config says; "weak", the same without its colours (`jitter`); "strong", with other random
        colours. All views of a record have the same scale, crop and flip, so that its label fits them all.
    """

    labels: bool = False
    views: tuple[str, ...] = ("image",)


class Context(NamedTuple):
    """What a loss may look at, besides the parameters that it is differentiated by.

    Attributes:
      step: int32 [], updates done.
      key: of this step.
      batch: arrays by "<stream>_<view>" and "<stream>_label".
      stats: the segmenter's batch statistics before the step.
      discriminators: parameters by level; the segmenter's loss does not move them.
      memory: the method's own tree; `Method.update_memory` makes the next one.
      constants: the method's frozen networks.
    """

    step: jax.Array
    key: jax.Array
    batch: Mapping[str, jax.Array]
    stats: Tree
    discriminators: Tree
    memory: Tree
    constants: Tree


class Aux(NamedTuple):
    """What the segmenter's loss leaves besides its value.

    Attributes:
      stats: the segmenter's batch statistics after all of the method's own forwards.
      metrics: scalars to log.
      carry: for the discriminators' loss, which sees it without gradient, and for the memory.
    """

    stats: Tree
    metrics: Scalars
    carry: Tree = ()


def student(state: Any) -> dict[str, Tree]:
    """The weights that are trained, of a state."""
    return {"params": state.params, "batch_stats": state.batch_stats}


class Method(NamedTuple):
    """A method, built for one config.

    Attributes:
      streams: what it reads, by names in `config.data`.
      segmenter_loss: (params, Context) -> (loss, Aux), differentiated by params.
      discriminators: level -> shape (H, W, C) of the maps that its discriminator looks at.
      discriminator_loss: (discriminators' parameters, Context, carry) -> (loss, metrics), if there are any.
      init_memory: (params, stats, key) -> what the method remembers at step 0, after pretrained weights are in place.
        It is in checkpoints, so on resume it is not called.
      init_constants: (params, stats) -> what it needs and never changes, of the weights that training starts from. Not
        in checkpoints: made again on resume, where it must come out the same.
      update_memory: (Context, carry, new params, new stats) -> the next memory. A teacher that moves before the forward
        of the next step is this one too.
      evaluated: (state) -> {"params", "batch_stats"} of what is scored and exported: the student, or a teacher.
      others: name -> the same of what is scored beside it, and no more: the teacher, or the student.
    """

    streams: Mapping[str, Stream]
    segmenter_loss: Callable[[Tree, Context], tuple[jax.Array, Aux]]
    discriminators: Mapping[str, tuple[int, int, int]] = {}
    discriminator_loss: Callable[[Tree, Context, Tree], tuple[jax.Array, Scalars]] | None = None
    init_memory: Callable[[Tree, Tree, jax.Array], Tree] = lambda params, stats, key: {}
    init_constants: Callable[[Tree, Tree], Tree] | None = None
    update_memory: Callable[[Context, Tree, Tree, Tree], Tree] = lambda context, carry, params, stats: context.memory
    evaluated: Callable[[Any], dict[str, Tree]] = student
    others: Mapping[str, Callable[[Any], dict[str, Tree]]] = {}
