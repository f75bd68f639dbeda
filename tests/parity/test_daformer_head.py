"""DAFormer's head: every layer, both modes of its batch norm, all gradients."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from tests.parity import reference as ref
from tests.parity.selftraining import compare_gradients, drawn, fill, load
from uda_jax.config import default_config
from uda_jax.models.daformer import ContextFusion, build
from uda_jax.weights.trees import torch_name

FILE = "daformer_head"
# Module of ours -> published layer; the depthwise convolution's own norm and ReLU are in it.
LAYERS = {
    "aspp_modules_0": "aspp0",
    "aspp_modules_1/depthwise_conv": "aspp1_depthwise",
    "aspp_modules_1": "aspp1",
    "aspp_modules_3": "aspp3",
    "bottleneck": "bottleneck",
}
Case = tuple[ContextFusion, dict[str, Any], list[jax.Array]]


def published(path: tuple[str, ...]) -> str:
    return f"decode_head.{torch_name(('head', *path))}"


def prepare(case: str) -> Case:
    """(head, its variables, features) of a case."""
    v = load(FILE)
    if f"{case}/channels" not in v:
        pytest.skip(f"this set has no case {case}")
    model = default_config().model
    model.update(head="daformer", head_width=int(v[f"{case}/channels"]), dropout=0.0, two_levels=False)
    model.update(dtype="float64", param_dtype="float64", num_classes=v[f"{case}/eval/logits"].shape[1])
    head = build(model, (4, 8, 16, 32), "main")
    maps = []
    for i in range(1, 5):
        feature = drawn(f"feat/daformer_head/{case}/{i}", tuple(v[f"{case}/feature{i}.shape"]))
        np.testing.assert_array_equal(ref.samples(feature), v[f"{case}/feature{i}.s64"])
        maps.append(jnp.asarray(ref.nhwc(feature), jnp.float64))
    shapes = jax.eval_shape(partial(head.init, method=whole, train=False), jax.random.key(0), maps)
    variables = {tree: fill(leaves, published, f"HEAD_{case}") for tree, leaves in shapes.items()}
    return head, variables, maps


def whole(head: ContextFusion, maps: list[jax.Array], train: bool) -> jax.Array:
    return head(head.features(maps, train))


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("case", ["even", pytest.param("odd", marks=pytest.mark.slow)])
def test_head(case: str, train: bool) -> None:
    v, mode = load(FILE), "train" if train else "eval"
    with jax.enable_x64(True):
        head, variables, maps = prepare(case)
        cotangent = drawn(f"cot/daformer_head/{case}", v[f"{case}/{mode}/logits"].shape)

        def keep(module: nn.Module, _: str) -> bool:
            return "/".join(module.path) in LAYERS

        @jax.jit
        def run(params: Any, maps: list[jax.Array]) -> Any:
            def loss(params: Any, maps: list[jax.Array]) -> Any:
                state = {**variables, "params": params}
                mutable, apply = ["batch_stats", "intermediates"], partial(head.apply, method=whole)
                logits, after = apply(state, maps, train=train, mutable=mutable, capture_intermediates=keep)
                return (logits * ref.nhwc(cotangent)).sum(), (logits, after)

            return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, maps)

        (loss, (logits, after)), (by_params, by_maps) = run(variables["params"], maps)
        ref.check(FILE, f"{mode}: logits", ref.nchw(logits), ref.truth(v, f"{case}/{mode}/logits"))
        ref.check(FILE, f"{mode}: loss", loss, ref.truth(v, f"{case}/{mode}/loss"))
        inner = traverse_util.flatten_dict(after["intermediates"], sep="/")
        for ours, layer in LAYERS.items():
            found = ref.samples(ref.nchw(inner[f"{ours}/__call__"][0]))
            ref.check(FILE, f"{mode}: layers", found, ref.truth(v, f"{case}/{mode}/{layer}.s64"))
        for i, gradient in enumerate(by_maps, 1):
            found = ref.samples(ref.nchw(gradient))
            ref.check(FILE, f"{mode}: gradients", found, ref.truth(v, f"{case}/{mode}/input_grad{i}.s64"))
        compare_gradients(FILE, f"{mode}: gradients", f"{case}/{mode}", by_params, published)
        if train:
            stats = {published(path): x for path, x in traverse_util.flatten_dict(after["batch_stats"]).items()}
            found = np.stack([ref.samples(np.asarray(stats[name])) for name in v[f"{case}/bn_names"].tolist()])
            ref.check(FILE, "running statistics", found, ref.truth(v, f"{case}/after_one_train_forward.bn_s64"))
