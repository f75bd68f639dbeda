"""Forward passes of every network: stages, logits, running statistics, predictions, gradients."""

import hashlib
import json
import re
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax import linen as nn

from tests.parity import reference as ref
from uda_jax.losses import SOURCE, TARGET, domain_loss
from uda_jax.models.layers import max_pool_ceil, resize_align_corners
from uda_jax.models.vgg import LAYERS
from uda_jax.networks import Networks
from uda_jax.state import TrainState

ALL_BRANCHES = (6, 12, 18, 24)
HEADS = {"head1": "aux_head", "head2": "head", "logits": "head"}  # published stage -> our module
GANS = {"bce": "vanilla", "mse": "least_squares"}


def cases(file: str) -> list[Any]:
    """The sizes in a file of forward passes; all but the first are slow."""
    found = sorted({k.split("/")[0] for k in ref.keys(file) if "/" in k})
    return [pytest.param(case, marks=[] if i == 0 else pytest.mark.slow) for i, case in enumerate(found)]


@cache
def network(config: str, seed: int) -> tuple[TrainState, Networks]:
    return ref.rule_state(ml_collections.ConfigDict(json.loads(config)), seed)


def forward(
    vectors: ref.Vectors, case: str, train: bool, classes: int, **model: Any
) -> tuple[Any, dict[str, np.ndarray]]:
    """Our segmenter on a case's images: (statistics after it, output of every module in PyTorch's layout)."""
    config = ref.parity_config(**{"num_classes": classes, **model})
    state, networks = network(config.to_json_best_effort(), int(vectors["seed"]))

    def keep(module: nn.Module, method: str) -> bool:
        return method == "__call__" and isinstance(module.name, str) and module.path[-2:-1] in ((), ("backbone",))

    @jax.jit
    def run(variables: Any, images: jax.Array) -> Any:
        return networks.segmenter.apply(
            variables, images, train, mutable=["batch_stats", "intermediates"], capture_intermediates=keep
        )[1]

    changed = run(
        {"params": state.params, "batch_stats": state.batch_stats}, ref.rgb(vectors[f"{case}/image_bgr_u8"])
    )
    modules = changed["intermediates"]
    flat = {k: v["__call__"][0] for k, v in {**modules, **modules["backbone"]}.items() if k != "backbone"}
    statistics = dict(ref.named(changed.get("batch_stats", {}), config))
    return statistics, {k: ref.nchw(v) for k, v in flat.items() if getattr(v, "ndim", 0) == 4}
