"""Mix Transformers: every stage's map and all gradients, of even and odd sizes."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.parity import reference as ref
from tests.parity.selftraining import compare_gradients, drawn, fill, load
from tests.parity.test_selftraining import network_input
from uda_jax.models import mit
from uda_jax.weights.trees import torch_name

FILE = "mit"


def published(path: tuple[str, ...]) -> str:
    return torch_name(("backbone", *path))


@pytest.mark.parametrize("case", ["odd", pytest.param("b0", marks=pytest.mark.slow)])
def test_backbone(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    v = load(FILE)
    if f"{case}/dims" not in v:
        pytest.skip(f"{case} is in the full set of vectors alone")
    size = mit.Size(*(tuple(v[f"{case}/{name}"].tolist()) for name in ("dims", "heads", "depths")))
    monkeypatch.setitem(mit.SIZES, "tiny", size)
    net = mit.MiT("tiny", dtype=jnp.float64, param_dtype=jnp.float64)
    image = jnp.asarray(network_input(v[f"{case}/image_rgb_u8"]), jnp.float64)
    trees = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, train=False), image)["params"]
    params = fill(trees, published, f"MIT_{case}")
    shapes = [tuple(v[f"{case}/stage{i}.shape"]) for i in range(1, 5)]
    cotangents = [ref.nhwc(drawn(f"cot/mit/{case}/{i}", shape)) for i, shape in enumerate(shapes, 1)]

    @jax.jit
    def run(params: Any, image: jax.Array) -> Any:
        def loss(params: Any, image: jax.Array) -> Any:
            maps = net.apply({"params": params}, image, train=True)  # without a key nothing is dropped
            return sum((x * c).sum() for x, c in zip(maps, cotangents, strict=True)), maps

        return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, image)

    (loss, maps), (by_params, by_image) = run(params, image)
    for i, x in enumerate(maps, 1):
        ref.check(FILE, "stages", ref.samples(ref.nchw(x)), ref.truth(v, f"{case}/stage{i}.s64"))
    ref.check(FILE, "loss", loss, ref.truth(v, f"{case}/loss"))
    ref.check(FILE, "gradients", ref.samples(ref.nchw(by_image)), ref.truth(v, f"{case}/input_grad.s64"))
    compare_gradients(FILE, "gradients", case, by_params, published)
