"""Mix Transformers: every stage's map and all gradients, of even and odd sizes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.parity import reference as ref
from tests.parity.selftraining import drawn, fill, load
from tests.parity.test_selftraining import MEAN, STD
from uda_jax.models import mit
from uda_jax.weights.trees import to_torch, torch_name

FILE = "mit"


def published(path: tuple[str, ...]) -> str:
    return torch_name(("backbone", *path))


@pytest.mark.parametrize("case", ["odd", pytest.param("b0", marks=pytest.mark.slow)])
def test_backbone(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    v = load(FILE)
    size = mit.Size(*(tuple(v[f"{case}/{name}"].tolist()) for name in ("dims", "heads", "depths")))
    monkeypatch.setitem(mit.SIZES, "tiny", size)
    net = mit.MiT("tiny", dtype=jnp.float64, param_dtype=jnp.float64)
    u8 = v[f"{case}/image_rgb_u8"]
    image = jnp.asarray(((ref.nhwc(u8).astype(np.float64) - MEAN) / STD).astype(np.float32), jnp.float64)
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
    ours = {published(path): to_torch(np.asarray(x)) for path, x in traverse_util.flatten_dict(by_params).items()}
    names, norms = v[f"{case}/param_names"].tolist(), ref.truth(v, f"{case}/param_grad_norm")
    assert sorted(names) == sorted(ours)
    for row, name in enumerate(names):
        truth = ref.truth(v, f"{case}/param_grad_s64")[row]
        if norms[row] > 1e-9 * norms.max():
            ref.check(FILE, "gradients", ref.samples(ours[name]), truth)
        assert np.linalg.norm(ours[name]) == pytest.approx(norms[row], rel=1e-9, abs=1e-9 * norms.max())
