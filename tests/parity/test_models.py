"""Forward passes of every network: stages, logits, running statistics, predictions, gradients."""

import hashlib
import json
import re
from ast import literal_eval
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.parity import reference as ref
from uda_jax.methods.losses import SOURCE, TARGET, domain_loss
from uda_jax.models.layers import max_pool_ceil, resize_bilinear
from uda_jax.models.networks import build_networks
from uda_jax.models.vgg import LAYERS

MULTI, SINGLE, VGG, DISCRIMINATOR = (
    "01_deeplab_multi",
    "02_deeplab_single",
    "03_deeplab_vgg",
    "04_discriminator",
)
ALL_BRANCHES = (6, 12, 18, 24)
HEADS = {"head1": "aux_head", "head2": "head"}  # published name -> ours
MODELS = {MULTI: {}, SINGLE: {"two_levels": False}, VGG: {"backbone": "vgg16", "two_levels": False}}


def size_of(case: str) -> tuple[int, int]:
    """(height, width) in the name of a case, such as n1_64x96."""
    height, width = re.findall(r"(\d+)x(\d+)$", case)[0]
    return int(height), int(width)


def cases(key: str, *files: str, slow: bool = False) -> list[Any]:
    """(file, case) for which there is an array `case/key`; all but each file's smallest are slow."""
    found = []
    for file in files:
        names = [k.removesuffix(f"/{key}") for k in ref.keys(file) if k.endswith(f"/{key}")]
        for i, name in enumerate(sorted(names, key=lambda name: prod(size_of(name)))):
            found.append(pytest.param(file, name, marks=[pytest.mark.slow] if i or slow else []))
    return found


def forward(file: str, case: str, train: bool, classes: int, **model: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """Our segmenter on a case's images: (statistics after it, low-resolution output of every module)."""
    vectors = ref.load(file)
    config = ref.parity_config(num_classes=classes, **MODELS[file] | model)
    state, networks = ref.rule_state(config, int(vectors["seed"]))
    variables = {"params": state.params, "batch_stats": state.batch_stats}

    def keep(module: nn.Module, _: str) -> bool:
        return module.path[:1] in (("head",), ("aux_head",)) or module.path[:1] == ("backbone",) != module.path

    @jax.jit
    def run(variables: Any, images: jax.Array) -> Any:
        mutable = ["batch_stats", "intermediates"]
        return networks.segmenter.apply(variables, images, train, mutable=mutable, capture_intermediates=keep)[1]

    changed = run(variables, ref.rgb(vectors[f"{case}/image_bgr_u8"]))
    modules = changed["intermediates"]
    outputs = {**modules["backbone"], **{k: v for k, v in modules.items() if k != "backbone"}}
    statistics = dict(ref.named(changed.get("batch_stats", {}), config))
    return statistics, {k: ref.nchw(v["__call__"][0]) for k, v in outputs.items() if "__call__" in v}


def resnet_stages(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs under the published names of a ResNet's stages."""
    named = {name: outputs[name] for name in ("conv1", "bn1")}
    stem = jnp.maximum(ref.nhwc(outputs["bn1"]), 0)
    named["maxpool"] = ref.nchw(max_pool_ceil(stem))
    for stage in range(1, 5):
        blocks = [name for name in outputs if name.startswith(f"layer{stage}_")]
        named[f"layer{stage}"] = outputs[max(blocks, key=lambda name: int(name.split("_")[1]))]
    return named


def check_stages(file: str, group: str, prefix: str, stages: dict[str, np.ndarray]) -> None:
    """Shape, samples, mean, deviation and maximum of all stages that the file holds under `prefix`, if any."""
    vectors = ref.load(file)
    stored = ref.matching(vectors, prefix, ".s64")
    assert not stored or stored.keys() & stages.keys()
    for stage in stored.keys() & stages.keys():
        ours = stages[stage]
        assert ours.shape == tuple(vectors[f"{prefix}{stage}.shape"])
        ref.check(file, group, ref.samples(ours), ref.truth(vectors, f"{prefix}{stage}.s64"))
        if f"{prefix}{stage}.stats" in vectors:
            stats = [ours.mean(), ours.std(), np.abs(ours).max()]
            ref.check(file, group, stats, ref.truth(vectors, f"{prefix}{stage}.stats"))


def check_logits(file: str, group: str, prefix: str, outputs: dict[str, np.ndarray]) -> None:
    vectors = ref.load(file)
    stored = ref.matching(vectors, prefix, ".logits")
    assert stored
    for name, truth in stored.items():
        ref.check(file, group, outputs[HEADS[name]], truth)


@pytest.mark.parametrize(("file", "case"), cases("eval/head2.logits", MULTI, SINGLE))
def test_deeplab_eval(file: str, case: str) -> None:
    vectors = ref.load(file)
    _, outputs = forward(file, case, False, vectors[f"{case}/eval/head2.logits"].shape[1])
    check_stages(file, "eval: stages", f"{case}/eval/", resnet_stages(outputs))
    check_logits(file, "eval: logits", f"{case}/eval/", outputs)
    if f"{case}/eval/argmax_up2" in vectors:
        check_argmax(file, case, outputs["head"])


@pytest.mark.parametrize(
    ("file", "case"), cases("train/head2.logits", MULTI) + cases("train/head2.logits", SINGLE, slow=True)
)
def test_deeplab_train(file: str, case: str) -> None:
    """Batch norm on the batch's statistics, and what one forward leaves of the running ones."""
    vectors = ref.load(file)
    statistics, outputs = forward(file, case, True, vectors[f"{case}/train/head2.logits"].shape[1])
    check_stages(file, "train: stages", f"{case}/train/", resnet_stages(outputs))
    check_logits(file, "train: logits", f"{case}/train/", outputs)
    for name, truth in ref.matching(vectors, f"{case}/train/after.", "_s64").items():
        ref.check(file, "train: running statistics", ref.samples(statistics[name]), truth)


def check_argmax(file: str, case: str, logits: np.ndarray) -> None:
    """The predicted classes at twice the image's size, where float32 can tell the first from the second."""
    vectors = ref.load(file)
    theirs = vectors[f"{case}/eval/argmax_up2"]
    full = np.asarray(resize_bilinear(jnp.asarray(ref.nhwc(logits)), theirs.shape[1:]))
    first, second = np.sort(full, -1)[..., -1], np.sort(full, -1)[..., -2]
    margin, scale = first - second, np.abs(full).max()
    clear = margin > 1e-5 * scale
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(full.argmax(-1)[clear], theirs[clear])
    smallest = ref.truth(vectors, f"{case}/eval/argmax_up2_min_margin")
    ref.check(file, "eval: argmax margin, of the largest logit", margin.min() / scale + 1, smallest / scale + 1)


@pytest.mark.parametrize(("file", "case"), cases("eval_4branch/head2.logits", MULTI))
def test_four_branches(file: str, case: str) -> None:
    classes = ref.load(file)[f"{case}/eval_4branch/head2.logits"].shape[1]
    _, outputs = forward(file, case, False, classes, dilations=ALL_BRANCHES)
    check_logits(file, "eval, four branches: logits", f"{case}/eval_4branch/", outputs)


@pytest.mark.parametrize(("file", "case"), cases("eval/logits", VGG))
def test_vgg(file: str, case: str) -> None:
    vectors = ref.load(file)
    _, outputs = forward(file, case, False, vectors[f"{case}/eval/logits"].shape[1])
    features = {str(i): x for i, x in enumerate(vgg_features(outputs))}
    check_stages(file, "eval: stages", f"{case}/eval/features.", features)
    ref.check(file, "eval: logits", outputs["head"], ref.truth(vectors, f"{case}/eval/logits"))


def vgg_features(outputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Every module of the published list: convolutions, their ReLUs, and pools."""
    features: list[np.ndarray] = []
    for layer in LAYERS:
        if isinstance(layer, str):
            features.append(ref.nchw(nn.max_pool(jnp.asarray(ref.nhwc(features[-1])), (2, 2), (2, 2))))
        else:
            features += [outputs[layer[0]], np.maximum(outputs[layer[0]], 0)]
    return features


@pytest.mark.parametrize(("file", "case"), cases("eval/head2.logits", MULTI)[:1])
def test_float32_is_as_close_as_the_published_float32(file: str, case: str) -> None:
    vectors = ref.load(file)
    classes = vectors[f"{case}/eval/head2.logits"].shape[1]
    with jax.enable_x64(False):
        _, outputs = forward(file, case, False, classes, dtype="float32")
        stages = resnet_stages(outputs)
    ours = {f"{case}/eval/{name}.s64": ref.samples(value) for name, value in stages.items()}
    ours |= {f"{case}/eval/{name}.logits": outputs[module] for name, module in HEADS.items()}
    for key, value in ours.items():
        assert value.dtype == np.float32
        if key not in vectors:
            continue  # a case may have logits and no stages
        truth = ref.truth(vectors, key)
        ratio = ref.error(value, truth) / max(ref.error(vectors[key], truth), np.finfo(np.float32).eps)
        ref.check(file, "eval in float32: our error / that of PyTorch's float32", [ratio], [0], 5)


def discriminator_with_weights(seed: int, classes: int) -> tuple[nn.Module, Any]:
    config = ref.parity_config(num_classes=classes)
    discriminator = build_networks(config).discriminator
    shapes = jax.eval_shape(discriminator.init, jax.random.key(0), jnp.zeros((1, 64, 64, classes)))["params"]
    return discriminator, ref.fill(shapes, seed, "D1", config)


@pytest.mark.parametrize(("file", "case"), cases("logits_low", DISCRIMINATOR))
def test_discriminator(file: str, case: str) -> None:
    vectors = ref.load(file)
    low = vectors[f"{case}/logits_low"]
    discriminator, params = discriminator_with_weights(int(vectors["seed"]), low.shape[1])

    def maps(logits: jax.Array) -> jax.Array:
        return jax.nn.softmax(resize_bilinear(logits, size_of(case)))

    logits = jnp.asarray(ref.nhwc(low), jnp.float64)
    if f"{case}/softmax_up.s64" in vectors:
        truth = ref.truth(vectors, f"{case}/softmax_up.s64")
        ref.check(file, "upsampled softmax", ref.samples(ref.nchw(maps(logits))), truth)
    out, kept = jax.jit(lambda p, x: discriminator.apply({"params": p}, maps(x), capture_intermediates=True))(
        params, logits
    )
    ref.check(file, "output", ref.nchw(out), ref.truth(vectors, f"{case}/out"))
    stages = {k: ref.nchw(v["__call__"][0]) for k, v in kept["intermediates"].items() if k != "__call__"}
    check_stages(file, "stages", f"{case}/", stages)
    for kind, gan in (("bce", "vanilla"), ("mse", "least_squares")):
        for domain in (SOURCE, TARGET):
            truth = ref.truth(vectors, f"{case}/{kind}_label{domain:.0f}")
            ref.check(file, "losses", domain_loss(out, domain, gan), truth)

    def loss(params: Any, logits: jax.Array) -> jax.Array:
        return domain_loss(discriminator.apply({"params": params}, maps(logits)), SOURCE, "vanilla")

    grads, grad_logits = jax.jit(jax.grad(loss, (0, 1)))(params, logits)
    truth = ref.truth(vectors, f"{case}/bce_label0.grad_logits_low")
    ref.check(file, "gradients", ref.nchw(grad_logits), truth)
    named = dict(ref.named(grads, ref.parity_config()))
    for name, truth in ref.matching(vectors, f"{case}/bce_label0.grad.", "_s64").items():
        ref.check(file, "gradients", ref.samples(named[name]), truth)


@pytest.mark.parametrize("file", [MULTI, SINGLE, VGG, DISCRIMINATOR])
def test_names_shapes_and_weights(file: str) -> None:
    """Every published tensor has a place here, and the rule draws the very weights that the vectors used."""
    digest = ref.directory() / "weights_digest.json"
    if not digest.exists():
        pytest.skip(f"{digest} is not there")
    entry = next(v for k, v in json.loads(digest.read_text()).items() if k.startswith(file))
    theirs = {t["name"]: literal_eval(t["shape"]) for t in entry["tensors"]}
    if file == DISCRIMINATOR:
        config = ref.parity_config()
        trees = [discriminator_with_weights(entry["seed"], theirs["conv1.weight"][1])[1]]
    else:
        classes = next(shape[0] for name, shape in theirs.items() if name.endswith("conv2d_list.0.bias"))
        config = ref.parity_config(dilations=ALL_BRANCHES, num_classes=classes, **MODELS[file])
        state, _ = ref.rule_state(config, entry["seed"])
        trees = [state.params, state.batch_stats]
    ours = {name: value.astype(np.float32) for tree in trees for name, value in ref.named(tree, config)}
    assert {k: v.shape for k, v in ours.items()} == theirs
    sha = hashlib.sha256()
    for name in sorted(ours):
        sha.update(name.encode())
        sha.update(np.ascontiguousarray(ours[name]).tobytes())
    assert sha.hexdigest() == entry["sha256_all_float_tensors"]


def test_a_case_may_have_logits_and_no_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.random.default_rng(0).standard_normal((1, 5, 3, 4))
    stages = {"conv1": np.zeros((1, 2, 3, 4))}
    np.savez(tmp_path / f"{MULTI}.npz", **{"c5_24x32/eval/head2.logits": logits, "n1/eval/layer9.s64": np.zeros(64)})
    monkeypatch.setenv("UDA_REFERENCE_DIR", str(tmp_path))
    monkeypatch.setattr(ref, "WORST", {})  # none of these belongs into the table
    ref.load.cache_clear()
    try:
        check_stages(MULTI, "eval: stages", "c5_24x32/eval/", stages)
        check_logits(MULTI, "eval: logits", "c5_24x32/eval/", {"head": logits})
        with pytest.raises(AssertionError, match="relative error"):
            check_logits(MULTI, "none", "c5_24x32/eval/", {"head": logits + 1e-6})
        for check in (check_stages, check_logits):  # stages under names of no network, and no logits at all
            with pytest.raises(AssertionError):
                check(MULTI, "eval", "n1/eval/", stages)
    finally:
        ref.load.cache_clear()
