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
from tests.parity.selftraining import load, rule
from tests.parity.test_selftraining import MEAN, STD, images
from uda_jax.config import default_config
from uda_jax.methods import contract, selftraining
from uda_jax.methods.colours import draw_colours
from uda_jax.models import resnet, segmenter
from uda_jax.models.networks import build_networks
from uda_jax.training import step as training_step
from uda_jax.training.state import TrainState, create_state
from uda_jax.weights.trees import torch_name

CLASSES = 19
RULES = ((".*pos_block.*", 1.0, 0.0), ("head/.*", 10.0, 1.0), (".*norm.*", 1.0, 0.0))


def settings_of(file: str) -> dict[str, Any]:
    return json.loads(str(load(file)["config_json"]))


def published(path: tuple[str, ...]) -> str:
    """The published name of a segmenter's parameter or statistic."""
    if path[0] == "head":
        kind, branch = path[1].split("_")
        return f"decode_head.aspp_modules.{branch}.conv.{'weight' if kind == 'kernel' else 'bias'}"
    return f"backbone.{torch_name(path)}"


def fill(tree: Any, tag: str) -> Any:
    """The rule's weights in the structure of one of our trees."""
    filled = {}
    for path, leaf in traverse_util.flatten_dict(tree).items():
        shape = leaf.shape if len(leaf.shape) != 4 else tuple(leaf.shape[i] for i in (3, 2, 0, 1))
        value = rule(tag, published(path), shape).astype(np.float64)
        filled[path] = jnp.asarray(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
    return traverse_util.unflatten_dict(filled)


def named(tree: Any) -> dict[str, np.ndarray]:
    return {published(path): ref.oihw(path, leaf) for path, leaf in traverse_util.flatten_dict(tree).items()}


@pytest.fixture
def small_resnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published run's depth, which is no network's that anybody uses."""
    monkeypatch.setitem(resnet.DEPTHS, "tiny", ((1, 1, 2, 2), True))
    names = {f"layer{s}_{i}": f"layer{s}.{i}" for s in range(1, 5) for i in range(2)}
    kind = segmenter.BACKBONES["resnet101"]
    monkeypatch.setitem(segmenter.BACKBONES, "tiny", kind._replace(published={**kind.published, **names}))


def config_of(file: str) -> ml_collections.ConfigDict:
    published, config = settings_of(file), default_config()
    height, width = published["hw"]
    config.method = "dacs"
    config.model.update(
        dtype="float64", param_dtype="float64", backbone="tiny", stem="deep", stem_width=8, width=8, affine="train",
        stride_in_1x1=False, two_levels=False, align_corners=False, mean=tuple(MEAN), std=tuple(STD), bgr=False,
    )  # fmt: skip
    config.dacs.update(
        alpha=published["alpha"],
        threshold=published["threshold"],
        ignore_top=published["top"] / height,
        ignore_bottom=published["bottom"] / height,
    )
    config.optimizer.update(
        name="adamw", learning_rate=published["lr"], head_multiplier=1.0, weight_decay=0.01, power=1.0,
        schedule_steps=40, warmup_steps=3, groups=RULES[1:2],
    )  # fmt: skip
    config.data.source.size = config.data.target.size = (height, width)
    return config


def stored_draws(file: str, context: contract.Context, settings: Any, classes: int) -> selftraining.Draws:
    """What was drawn in the published run, which is in the batch; no strong augmentation."""
    del settings, classes
    none = draw_colours(jax.random.key(0), len(context.batch["source_label"]), 0.0, 0.0, 0.0)
    return selftraining.Draws(context.batch["pasted"], none, context.batch.get("blocks", jnp.zeros(())), none)


def batch_of(file: str, i: int) -> dict[str, np.ndarray]:
    v = load(file)
    label = v[f"pair{i}/source_label_u8"].astype(np.int32)
    pasted = np.zeros((len(label), CLASSES + 1), bool)
    for image in range(len(label)):
        pasted[image, np.minimum(v[f"it{i}.classes_pasted{image}"], CLASSES)] = True
    return {
        "source_image": images(v[f"pair{i}/source_rgb_u8"]),
        "source_label": label,
        "target_weak": images(v[f"pair{i}/target_rgb_u8"]),
        "pasted": pasted,
    }


def initial_state(config: ml_collections.ConfigDict, networks: Any) -> TrainState:
    shapes = jax.eval_shape(partial(create_state, config, networks))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    params, stats = fill(shapes.params, "net"), fill(shapes.batch_stats, "net")
    # At its first iteration the published loop copies the parameters, and leaves the teacher its own statistics.
    return state.replace(
        params=params,
        batch_stats=stats,
        memory={"params": jax.tree.map(jnp.copy, params), "batch_stats": fill(shapes.batch_stats, "ema")},
    )


@pytest.mark.usefixtures("small_resnet")
@pytest.mark.parametrize("file", ["train_dacs"])
def test_trajectory(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    v, config = load(file), config_of(file)
    networks = build_networks(config)
    method = selftraining.build(config, networks, config.dacs, partial(stored_draws, file))
    monkeypatch.setattr(training_step, "build_method", lambda *_: method)
    state = initial_state(config, networks)
    gradients = jax.jit(training_step.build_gradients(config, networks))
    step = jax.jit(training_step.build_step(config, networks))
    names = v["param_names"].tolist()
    for i in range(settings_of(file)["its"]):
        batch = batch_of(file, i)
        before, teacher = named(state.params), named(state.memory["params"])
        grads, metrics = gradients(state, batch)
        check(file, "losses", metrics["loss_seg_main"], ref.truth(v, "log.decode.loss_seg")[i])
        check(file, "losses", metrics["loss_mixed"], ref.truth(v, "log.mix.decode.loss_seg")[i])
        check(file, "sure pixels", metrics["sure_target"], ref.truth(v, f"it{i}.teacher_confident_fraction"))
        check(file, "gradient norms", metrics["grad_norm"], ref.truth(v, f"it{i}.grad_norm_after_each_backward")[-1, 0])
        check(file, "rates", metrics["learning_rate"], v[f"it{i}.lr_body_head"][0])
        state, _ = step(state, batch)
        if f"it{i}.student.grad_s64" not in v:
            continue
        of_grads, after = named(grads.segmenter), named(state.params)
        assert sorted(names) == sorted(after)
        for row, name in enumerate(names):
            for group, ours, key in (
                ("gradients", of_grads[name], "student.grad_s64"),
                ("parameters", after[name], "student.after_s64"),
                ("teacher", teacher[name], "teacher.param_s64"),
            ):
                check(file, group, ref.samples(ours), ref.truth(v, f"it{i}.{key}")[row])
            # Differences of numbers near 1, of which those of the first step are 1e-9: their last bits are rounding.
            rounding = 4 * np.finfo(float).eps * np.abs(after[name]).max()
            update, truth = ref.samples(after[name] - before[name]), ref.truth(v, f"it{i}.student.delta_s64")[row]
            np.testing.assert_allclose(update, truth, rtol=ref.TRAJECTORY, atol=rounding)
        for of, stats in (("student", state.batch_stats), ("teacher", state.memory["batch_stats"])):
            ours = named(stats)
            found = np.stack([ref.samples(ours[name]) for name in v["bn_names"].tolist()])
            check(file, f"{of}'s running statistics", found, ref.truth(v, f"it{i}.{of}.bn_s64"))


def check(file: str, group: str, ours: Any, theirs: Any) -> None:
    ref.check(file, group, ours, theirs, ref.TRAJECTORY)
