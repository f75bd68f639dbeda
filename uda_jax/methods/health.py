"""What a method logs of its predictions, so that `training.health` can tell when they go wrong."""

import jax
import jax.numpy as jnp

from uda_jax.methods.contract import Scalars
from uda_jax.methods.losses import entropy_loss
from uda_jax.models.layers import at_least_float32

EVERY = 4  # pixels in each direction: a sixteenth of the work, and the same shares


def predicted(logits: jax.Array, domain: str) -> Scalars:
    """{"entropy_<domain>": [], as `entropy_loss`; "share_<domain>": [classes], of the pixels predicted as each}.

    Args:
      logits: [B, H, W, classes]; they get no gradient.
    """
    logits = at_least_float32(jax.lax.stop_gradient(logits)[:, ::EVERY, ::EVERY])
    classes = logits.shape[-1]
    chosen = logits.argmax(-1)[..., None] == jnp.arange(classes)
    entropy = entropy_loss(jax.nn.softmax(logits)) if classes > 1 else jnp.zeros((), logits.dtype)
    return {f"entropy_{domain}": entropy, f"share_{domain}": chosen.mean((0, 1, 2), dtype=logits.dtype)}
