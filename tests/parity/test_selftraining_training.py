"""Trajectories of the published self-training loop, through `step`, the methods and the optimizer."""

import json
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from flax import traverse_util

from tests.parity import reference as ref
from tests.parity.selftraining import fill, load
from tests.parity.test_selftraining import MEAN, STD, images
from uda_jax.config import default_config
from uda_jax.methods import selftraining
from uda_jax.methods.colours import Colours
from uda_jax.methods.teacher import momentum, moved
from uda_jax.models import mit, resnet, segmenter
from uda_jax.models.networks import build_networks
from uda_jax.training import step as training_step
from uda_jax.training.state import TrainState, create_state
from uda_jax.weights.trees import to_torch, torch_name

CLASSES = 19
METHODS = {
    "train_dacs": "dacs",
    "train_dacs_mit": "dacs",
    "train_daformer": "daformer",
    "train_mic": "mic",
    "train_mic_aug": "mic",
}
RULES = (("head/.*", 10.0, 1.0), (".*norm.*", 1.0, 0.0))


def settings_of(file: str) -> dict[str, Any]:
    return json.loads(str(load(file)["config_json"]))


def published(path: tuple[str, ...]) -> str:
    """The published name of a segmenter's parameter or statistic."""
    part = "decode_head" if path[0] == "head" else "backbone"
    if path[0] == "head" and "_" in path[-1]:  # of a DeepLab-v2 head
        kind, branch = path[-1].split("_")
        return f"decode_head.aspp_modules.{branch}.conv.{'weight' if kind == 'kernel' else 'bias'}"
    return f"{part}.{torch_name(path)}"


def named(tree: Any) -> dict[str, np.ndarray]:
    return {published(path): to_torch(np.asarray(x)) for path, x in traverse_util.flatten_dict(tree).items()}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published runs' depths and widths, which are no networks that anybody uses."""
    monkeypatch.setitem(resnet.DEPTHS, "tiny_resnet", ((1, 1, 2, 2), True))
    monkeypatch.setitem(segmenter.BACKBONES, "tiny_resnet", segmenter.BACKBONES["resnet101"])
    monkeypatch.setitem(mit.SIZES, "tiny_mit", mit.Size((16, 32, 40, 64), (1, 2, 5, 8), (1, 2, 1, 1)))
    monkeypatch.setitem(segmenter.BACKBONES, "tiny_mit", segmenter.BACKBONES["mit_b0"])


def config_of(file: str) -> ml_collections.ConfigDict:
    published, config = settings_of(file), default_config()
    height, width = published["hw"]
    config.method = METHODS[file]
    config.model.update(
        dtype="float64", param_dtype="float64", affine="train", two_levels=False, align_corners=False,
        mean=tuple(MEAN), std=tuple(STD), bgr=False,
    )  # fmt: skip
    if published["net"] == "mit":
        config.model.update(backbone="tiny_mit", head="daformer", head_width=published["head_channels"])
        config.model.update(dropout=0.0, drop_path=0.0)
    else:
        config.model.update(backbone="tiny_resnet", stem="deep", stem_width=8, width=8, stride_in_1x1=False)
    config[config.method].update(
        alpha=published["alpha"],
        threshold=published["threshold"],
        ignore_top=published["top"] / height,
        ignore_bottom=published["bottom"] / height,
        lambda_distance=0.005 if published["fd"] else 0.0,
        mask_block=published.get("mask", 64),
    )
    config.optimizer.update(name="adamw", head_multiplier=1.0, weight_decay=0.01, power=1.0)
    config.optimizer.groups = RULES if published["net"] == "mit" else RULES[:1]
    start, rate = published["start"], published["lr"]
    if published["sched"] == "toy":
        config.optimizer.update(learning_rate=rate, schedule_steps=40, warmup_steps=3)
    else:  # the optimizer is new there, and its rate that of the 5,000th step
        left = 40_000 - start
        config.optimizer.update(learning_rate=rate * left / 40_000, schedule_steps=left)
    config.data.source.size = config.data.target.size = (height, width)
    return config


def batch_of(file: str, i: int) -> dict[str, Any]:
    v = load(file)
    label = v[f"pair{i}/source_label_u8"].astype(np.int32)
    return {
        "source_image": images(v[f"pair{i}/source_rgb_u8"]),
        "source_label": label,
        "target_weak": images(v[f"pair{i}/target_rgb_u8"]),
        "draws": draws_of(v, f"it{i}.", len(label)),
    }


def draws_of(v: ref.Vectors, p: str, count: int) -> selftraining.Draws:
    """What was drawn in the published run."""
    pasted = np.zeros((count, CLASSES + 1), bool)
    for image in range(count):
        pasted[image, np.minimum(v[f"{p}classes_pasted{image}"], CLASSES)] = True
    blocks = v[f"{p}mask_uniform0"][:, 0] if f"{p}mask_uniform0" in v else np.zeros((count, 1, 1))
    gates = v.get(f"{p}aug_gates_mixedjitter_mixedblur_maskedjitter_maskedblur", np.zeros(4)) > [0.2, 0.5, 0.2, 0.5]
    number = 0

    def take(gates: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        nonlocal number
        factors, order, sigma = np.tile([1.0, 1.0, 1.0, 0.0], (images, 1)), np.arange(4), np.ones(())
        if gates[0]:
            names = ("brightness", "contrast", "saturation", "hue")
            factors = np.stack([v[f"{p}aug{number}.{name}_factor"].astype(np.float64) for name in names], -1)
            order, number = v[f"{p}aug{number}.order"], number + 1
        if gates[1]:
            sigma, number = v[f"{p}aug{number}.sigma"].astype(np.float64), number + 1
        return factors, np.tile(order, (images, 1)), np.full(images, sigma)

    mixed = [np.concatenate(parts) for parts in zip(*(take(gates[:2], 1) for _ in range(count)), strict=True)]
    hidden = take(gates[2:], count)
    return selftraining.Draws(
        pasted,
        Colours(gates[0], mixed[0], mixed[1], gates[1], mixed[2]),
        blocks,
        Colours(gates[2], hidden[0], hidden[1], gates[3], hidden[2]),
    )


def initial_state(file: str, config: ml_collections.ConfigDict, networks: Any) -> TrainState:
    shapes, start = jax.eval_shape(partial(create_state, config, networks)), settings_of(file)["start"]
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    params, teacher = (fill(shapes.params, published, tag) for tag in ("net", "ema"))
    # A teacher moves before its first forward: at iteration 0 it becomes a copy. Its statistics are its own.
    return state.replace(
        step=jnp.asarray(start, jnp.int32),
        params=params,
        batch_stats=fill(shapes.batch_stats, published, "net"),
        memory={
            "params": moved(teacher, params, momentum(jnp.asarray(start), settings_of(file)["alpha"])),
            "batch_stats": fill(shapes.batch_stats, published, "ema"),
        },
    )


def losses_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """Ours under the published names; a weighted one is weighted there."""
    ours = {
        "decode.loss_seg": metrics["loss_seg_main"],
        "mix.decode.loss_seg": metrics["loss_mixed"],
        "masked.decode.loss_seg": metrics.get("loss_masked"),
        "src.loss_imnet_feat_dist": 0.005 * metrics.get("loss_distance", np.nan),
    }
    return {name: value for name, value in ours.items() if value is not None and not np.isnan(value)}


@pytest.mark.usefixtures("tiny")
@pytest.mark.slow
@pytest.mark.parametrize("file", METHODS)
def test_trajectory(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    v, config, run = load(file), config_of(file), settings_of(file)
    networks = build_networks(config)
    stored = lambda context, *_: context.batch["draws"]  # noqa: E731
    method = selftraining.build(config, networks, config[config.method], stored)
    monkeypatch.setattr(training_step, "build_method", lambda *_: method)
    state, constants = initial_state(file, config, networks), {}
    if method.init_constants:
        shapes = jax.eval_shape(lambda key: networks.init(key, run["hw"]), jax.random.key(0))
        constants = method.init_constants(*(fill(tree, published, "imnet") for tree in shapes))
    gradients, step = (build(config, networks) for build in (training_step.build_gradients, training_step.build_step))
    both = jax.jit(lambda *args: (gradients(*args), step(*args)))  # the compiler finds that one is part of the other
    names = v["param_names"].tolist()
    for i in range(run["its"]):
        batch = batch_of(file, i)
        before, teacher = named(state.params), named(state.memory["params"])
        (grads, metrics), (state, _) = both(state, batch, constants)
        truths = {k.removeprefix("log."): x[i] for k, x in v.items() if k.startswith("log.") and "loss" in k}
        truths = {k: x for k, x in truths.items() if f"{k}__f64" not in truths}
        ours = losses_of(metrics)
        assert ours.keys() == {name.removesuffix("__f64") for name in truths}
        for name, truth in truths.items():
            check(file, "losses", ours[name.removesuffix("__f64")], np.nan_to_num(truth))
        check(file, "sure pixels", metrics["sure_target"], ref.truth(v, f"it{i}.teacher_confident_fraction"))
        check(file, "gradient norms", metrics["grad_norm"], ref.truth(v, f"it{i}.grad_norm_after_each_backward")[-1, 0])
        if not run["start"]:
            check(file, "rates", metrics["learning_rate"], v[f"it{i}.lr_body_head"][0])
        if f"it{i}.student.grad_s64" in v:
            check_parameters(file, i, names, named(grads.segmenter), before, named(state.params), teacher)
            for of, stats in (("student", state.batch_stats), ("teacher", state.memory["batch_stats"])):
                ours = named(stats)
                found = np.stack([ref.samples(ours[name]) for name in v["bn_names"].tolist()])
                check(file, f"{of}'s running statistics", found, ref.truth(v, f"it{i}.{of}.bn_s64"))


def check_parameters(file: str, i: int, names: list[str], grads: Any, before: Any, after: Any, teacher: Any) -> None:
    v = load(file)
    assert sorted(names) == sorted(after)
    norms = ref.truth(v, f"it{i}.student.grad_norm")
    for row, name in enumerate(names):
        if norms[row] > 1e-9 * norms.max():  # of a bias before a norm it is rounding alone
            check(file, "gradients", ref.samples(grads[name]), ref.truth(v, f"it{i}.student.grad_s64")[row])
            check(file, "parameters", ref.samples(after[name]), ref.truth(v, f"it{i}.student.after_s64")[row])
            # Differences of numbers near 1, of which those of the first step are 1e-9: their last bits are rounding.
            update, truth = ref.samples(after[name] - before[name]), ref.truth(v, f"it{i}.student.delta_s64")[row]
            rounding = 4 * np.finfo(float).eps * np.abs(after[name]).max()
            allowed = rounding * np.sqrt(len(truth)) + ref.TRAJECTORY * np.linalg.norm(truth)
            assert np.linalg.norm(update - truth) <= allowed, name
        check(file, "teacher", ref.samples(teacher[name]), ref.truth(v, f"it{i}.teacher.param_s64")[row])


def check(file: str, group: str, ours: Any, theirs: Any) -> None:
    ref.check(file, group, ours, theirs, ref.TRAJECTORY)
