"""EfficientNet-Lite against vectors of a published PyTorch implementation; data/make_efficientnet_lite.py made them."""

import re
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from tests.parity.reference import samples
from uda_jax.config import default_config
from uda_jax.errors import UserError
from uda_jax.models.efficientnet import BACKBONES, EfficientNetLite, recognised, stages_of
from uda_jax.weights.trees import from_torch, to_torch, torch_name, torch_shape

VECTORS = dict(np.load(Path(__file__).parent / "data" / "efficientnet_lite.npz"))
Flat = dict[tuple[str, ...], Any]


def model(size: int, output_stride: int = 32) -> EfficientNetLite:
    config: ConfigDict = default_config().model
    config.update(backbone=f"efficientnet_lite{size}", output_stride=output_stride, norm="frozen", affine="train")
    config.update(dtype="float64", param_dtype="float64")
    return BACKBONES[config.backbone].build(config)


def theirs(path: tuple[str, ...], size: int) -> str:
    """The package's name of a parameter or statistic, which it counts through all blocks."""
    name = torch_name(("backbone", *path))
    if not (found := re.fullmatch(r"blocks\.(\d)\.(\d+)\.(\w+)\.(\w+)", name)):
        return name.replace("conv_stem", "_conv_stem").replace("bn1", "_bn0")
    stage, block, module, kind = int(found[1]), int(found[2]), found[3], found[4]
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    others = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    others |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    number = sum(s.blocks for s in stages_of(f"efficientnet_lite{size}")[:stage]) + block
    return f"_blocks.{number}.{(others if stage else first)[module]}.{kind}"


def raw(size: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng([20260, zlib.crc32(f"lite{size}/{name}".encode())]).standard_normal(shape)


def rule(size: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    r = raw(size, name, shape)
    if len(shape) == 4:
        return r * np.sqrt(2 / np.prod(shape[1:]))
    kinds = {"weight": 1 + 0.1 * r, "bias": 0.1 * r, "running_mean": 0.1 * r, "running_var": 1 + 0.1 * np.abs(r)}
    return kinds[name.split(".")[-1]]


def ruled(size: int, output_stride: int = 32) -> tuple[EfficientNetLite, dict[str, Any]]:
    """The network with the rule's weights."""
    network = model(size, output_stride)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float64)
    shapes = jax.eval_shape(partial(network.init, train=False), jax.random.key(0), image)
    variables: dict[str, Any] = {}
    for tree, leaves in shapes.items():
        flat: Flat = traverse_util.flatten_dict(leaves)
        filled = {p: from_torch(rule(size, theirs(p, size), torch_shape(x.shape))) for p, x in flat.items()}
        variables[tree] = traverse_util.unflatten_dict({p: jnp.asarray(x) for p, x in filled.items()})
    return network, variables


def image(size: int, height: int, width: int) -> jax.Array:
    return jnp.asarray(raw(size, f"input/{height}x{width}", (1, 3, height, width)).transpose(0, 2, 3, 1))


def check(maps: tuple[jax.Array, ...], case: str) -> None:
    for i, x in enumerate(maps):
        x = np.asarray(x).transpose(0, 3, 1, 2)
        assert x.shape == tuple(VECTORS[f"{case}/shapes"][i])
        np.testing.assert_allclose(samples(x), VECTORS[f"{case}/samples"][i], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose([x.mean(), x.std(), np.abs(x).max()], VECTORS[f"{case}/stats"][i], rtol=1e-9)


@pytest.mark.parametrize(
    ("size", "height", "width"),
    [
        (0, 65, 97),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0, 64, 96), *((i, 64, 64) for i in range(1, 5)))),
    ],
)
def test_maps_are_the_published_ones(size: int, height: int, width: int) -> None:
    with jax.enable_x64(True):
        network, variables = ruled(size)
        maps = jax.jit(partial(network.apply, train=False))(variables, image(size, height, width))
        check(maps, f"lite{size}/{height}x{width}")


def test_gradients_are_the_published_ones() -> None:
    with jax.enable_x64(True):
        network, variables = ruled(0)
        shapes, x = VECTORS["lite0/64x96/shapes"], image(0, 64, 96)
        cotangents = [raw(0, f"cot/{group}", tuple(shapes[i])) for i, group in enumerate((1, 2, 4, 6))]

        @jax.jit
        def pull(params: Any, x: jax.Array) -> Any:
            def loss(params: Any, x: jax.Array) -> jax.Array:
                maps = network.apply({**variables, "params": params}, x, train=True)
                return sum((m * c.transpose(0, 2, 3, 1)).sum() for m, c in zip(maps, cotangents, strict=True))

            return jax.grad(loss, (0, 1))(params, x)

        by_params, by_input = pull(variables["params"], x)
        ours = {theirs(p, 0): to_torch(np.asarray(g)) for p, g in traverse_util.flatten_dict(by_params).items()}
        ours["input"] = np.asarray(by_input).transpose(0, 3, 1, 2)
    names = VECTORS["lite0/64x96/grad/names"].tolist()
    assert sorted(names) == sorted(ours)
    for i, name in enumerate(names):
        norm = VECTORS["lite0/64x96/grad/norms"][i]
        assert np.linalg.norm(ours[name]) == pytest.approx(norm, rel=1e-9)
        expected = VECTORS["lite0/64x96/grad/samples"][i]
        np.testing.assert_allclose(samples(ours[name]), expected, rtol=1e-9, atol=1e-9 * norm)


@pytest.mark.slow
def test_at_stride_16_every_kernel_sees_what_it_saw_before() -> None:
    """Away from the border: where the network of stride 32 looks, the dilated one says the same."""
    with jax.enable_x64(True):
        (network, variables), dilated = ruled(0), model(0, 16)
        x = jnp.asarray(raw(0, "wide", (1, 3, 32, 768)).transpose(0, 2, 3, 1))
        applied = (jax.jit(partial(n.apply, train=False))(variables, x) for n in (network, dilated))
        coarse, fine = (np.asarray(maps[-1]) for maps in applied)
    assert fine.shape == (1, 2, 48, 320) and coarse.shape == (1, 1, 24, 320)
    # SAME pads 5x5 of stride 2 by one row before and two after, so what was seen at m is seen at 2 m + 1 now.
    np.testing.assert_allclose(fine[:, 1:, 21:29:2], coarse[:, :, 10:14], rtol=1e-9)


@pytest.mark.parametrize("size", range(5))
def test_shapes_tell_the_size(size: int) -> None:
    with jax.enable_x64(True):
        x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float64)
        shapes = jax.eval_shape(partial(model(size).init, train=False), jax.random.key(0), x)["params"]
    flat = {torch_name(("backbone", *p)): torch_shape(s.shape) for p, s in traverse_util.flatten_dict(shapes).items()}
    assert recognised(flat) == {"backbone": f"efficientnet_lite{size}"}
    assert recognised({k: v for k, v in flat.items() if k != "conv_stem.weight"}) is None
    with pytest.raises(
        UserError, match=r"no EfficientNet-Lite that is known here: it has \(1, .* blocks, .* and no squeeze"
    ):
        recognised({k: v for k, v in flat.items() if not k.startswith("blocks.3.2.")})
