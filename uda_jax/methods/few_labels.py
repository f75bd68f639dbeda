"""A few labelled images of the target, beside whatever a method does without them.

Their cross entropy, times `config.few_labels.weight`, joins the segmenter's loss. They are images of
`config.data.oracle`, of its split `config.few_labels.split`; what a method does with the unlabelled target stays.
"""

from typing import Any

import jax
import ml_collections

from uda_jax.methods.contract import Aux, Context, Method, Stream
from uda_jax.methods.supervised import DROPOUT, supervised_loss
from uda_jax.methods.terms import after, in_turn
from uda_jax.models.networks import Networks

STREAM = "labelled"
NUMBER = 100  # of this forward's dropout, beyond those of any method


def with_few_labels(method: Method, config: ml_collections.ConfigDict, networks: Networks) -> Method:
    """The method with their loss, or as it is where `config.few_labels` names none."""
    if not config.few_labels.split:
        return method
    lambda_seg_aux = config[config.method].get("lambda_seg_aux", 0.0)

    def segmenter_loss(params: Any, context: Context) -> tuple[jax.Array, Aux]:
        loss, aux = in_turn(lambda params: method.segmenter_loss(params, context))(params)
        key = jax.random.fold_in(context.key, DROPOUT + NUMBER)
        image = after(loss, context.batch[f"{STREAM}_image"])
        outputs, stats = networks.segment(params, aux.stats, image, key)
        more, _ = supervised_loss(outputs, context.batch[f"{STREAM}_label"], lambda_seg_aux)
        return loss + config.few_labels.weight * more, aux._replace(
            stats=stats, metrics={**aux.metrics, "loss_labelled": more}
        )

    return method._replace(streams={**method.streams, STREAM: Stream(labels=True)}, segmenter_loss=segmenter_loss)
