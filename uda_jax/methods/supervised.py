"""Supervised training on the source domain, what every method does there."""

import jax

from uda_jax.methods.contract import Scalars, Stream
from uda_jax.methods.health import predicted
from uda_jax.methods.losses import cross_entropy
from uda_jax.models.segmenter import Outputs

DROPOUT = 2  # its stream of a step's randomness is folded from this on, a number for every domain
SOURCE = {"source": Stream(labels=True)}


def supervised_loss(outputs: Outputs, labels: jax.Array, lambda_seg_aux: float) -> tuple[jax.Array, Scalars]:
    """CE(main) + lambda_seg_aux CE(aux) (AdaptSegNet, eq. 5)."""
    loss = cross_entropy(outputs.main, labels)
    metrics = {"loss_seg_main": loss, **predicted(outputs.main, "source")}
    if outputs.aux is not None:
        metrics["loss_seg_aux"] = cross_entropy(outputs.aux, labels)
        loss = loss + lambda_seg_aux * metrics["loss_seg_aux"]
    return loss, metrics
