"""Trajectories of several iterations, through `step`, the methods and the optimizers."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import ml_collections
import numpy as np
import optax
import pytest

from tests.parity import reference as ref
from uda_jax.models.networks import build_networks
from uda_jax.training.optimizers import poly_schedule
from uda_jax.training.state import TrainState
from uda_jax.training.step import Gradients, build_gradients, build_step, build_update

METHODS = {
    "06_train_lsgan_single": "adaptsegnet",
    "06_train_multi": "adaptsegnet",
    "06_train_single": "adaptsegnet",
    "11_train_minent": "minent",
    "11_train_advent": "advent",
}
LEVELS = {"D1": "aux", "D2": "main"}  # published discriminator -> ours
LAMBDAS = {
    "--lambda-seg": "lambda_seg_aux",
    "--lambda-adv-target1": "lambda_adv_aux",
    "--lambda-adv-target2": "lambda_adv_main",
}
TRAJECTORIES = [
    (file, variant)
    for file in METHODS
    for variant in ("dedup", "torch2", "legacy")
    if f"{variant}/G.global_grad_norm__f64" in ref.keys(file)
]
Arrays = dict[str, dict[str, np.ndarray]]  # network -> published name -> array in PyTorch's layout


def config_of(file: str, variant: str = "dedup") -> ml_collections.ConfigDict:
    """Our config for a published run: AdaptSegNet's settings are in the file, ADVENT's are its defaults."""
    dilations = (6, 12) if METHODS[file] == "adaptsegnet" else (6, 12, 18, 24)
    config = ref.parity_config(dilations=dilations)
    config.method, config.optimizer.variant = METHODS[file], variant
    arguments = str(ref.load(file).get("script_args", "")).split()
    if "--gan" in arguments or "--lambda-seg" in arguments:
        options = dict(zip(arguments[::2], arguments[1::2], strict=True))
        gan = options.pop("--gan", "Vanilla")
        config.adaptsegnet.gan = {"Vanilla": "vanilla", "LS": "least_squares"}[gan]
        config.adaptsegnet.update({LAMBDAS[name]: float(value) for name, value in options.items()})
    return config


def batches(file: str) -> list[dict[str, np.ndarray]]:
    v = ref.load(file)
    return [
        {
            "source_image": ref.rgb(v[f"pair{i}/source_bgr_u8"]),
            "source_label": v[f"pair{i}/label_u8"].astype(np.int32),
            "target_image": ref.rgb(v[f"pair{i}/target_bgr_u8"]),
        }
        for i in range(sum(k.endswith("/label_u8") for k in v))
    ]


def published(metrics: dict[str, Any]) -> dict[str, Any]:
    """Our metrics under the names of both published codes."""
    named = {}
    for net, level in LEVELS.items():
        for ours, *theirs in (
            (f"loss_seg_{level}", f"loss_seg{net[1]}", f"loss_seg_src_{level}"),
            (f"loss_adv_{level}", f"loss_adv{net[1]}", f"loss_adv_trg_{level}"),
            (f"loss_ent_{level}", f"loss_ent_{level}"),
        ):
            named |= {name: metrics[ours] for name in theirs if ours in metrics}
        if f"loss_d_{level}_source" in metrics:
            source, target = (metrics[f"loss_d_{level}_{domain}"] for domain in ("source", "target"))
            named |= {f"loss_{net}_src": source, f"loss_{net}_tgt": target, f"loss_{net}": (source + target) / 2}
            named |= {f"d_{level}_src": source, f"d_{level}_tgt": target, f"loss_d_{level}": target / 2}
    return named


def arrays(file: str, segmenter: Any, discriminators: Any) -> Arrays:
    """The networks' parameters (or gradients) that the file may hold, by published names."""
    config = config_of(file)
    trees = {"G": segmenter} | {net: discriminators[level] for net, level in LEVELS.items() if discriminators}
    return {net: dict(ref.named(tree, config)) for net, tree in trees.items()}


def check_metrics(file: str, variant: str, i: int, metrics: dict[str, Any]) -> None:
    """Losses, rates and the segmenter's gradient norm of iteration i."""
    vectors, config = ref.load(file), config_of(file, variant)
    run, ours = f"{file}, {variant}", published(metrics)
    stored = {k: v for k, v in ref.matching(vectors, f"{variant}/", "").items() if k.startswith(("loss_", "d_"))}
    assert stored
    for name, truth in stored.items():
        ref.check(run, "losses", ours[name], truth[i], ref.TRAJECTORY)
    norm = ref.truth(vectors, f"{variant}/G.global_grad_norm")[i]
    ref.check(run, "gradient norms", metrics["grad_norm"], norm, ref.TRAJECTORY)
    o = config.optimizer
    rates = np.array([1, o.head_multiplier]) * metrics["learning_rate"]
    ref.check(run, "rates", rates, vectors[f"{variant}/G.lr"][i])
    rate = poly_schedule(o.discriminator_learning_rate, o.schedule_steps, o.power)(i)
    for net in LEVELS:
        if f"{variant}/{net}.lr" in vectors:
            ref.check(run, "rates", [rate], vectors[f"{variant}/{net}.lr"][i])


def check_gradients(file: str, variant: str, i: int, grads: Gradients) -> None:
    vectors, run = ref.load(file), f"{file}, {variant}"
    for net, level in LEVELS.items():
        if f"{variant}/{net}.global_grad_norm__f64" in vectors:
            norm = ref.truth(vectors, f"{variant}/{net}.global_grad_norm")[i]
            ours = optax.tree.norm(grads.discriminator[level])
            ref.check(run, "gradient norms", ours, norm, ref.TRAJECTORY)
    for net, named in arrays(file, grads.segmenter, grads.discriminator).items():
        prefix = f"{variant}/it{i}.{net}."
        for name, truth in ref.matching(vectors, prefix, ".grad_s64").items():
            ref.check(run, "gradients", ref.samples(named[name]), truth, ref.TRAJECTORY)
            norm = ref.truth(vectors, f"{prefix}{name}.grad_norm")
            ref.check(run, "gradients", np.linalg.norm(named[name]), norm, ref.TRAJECTORY)


def check_state(file: str, variant: str, i: int, before: Arrays, state: TrainState) -> None:
    """Parameters before and after iteration i, and the running statistics after it."""
    vectors, run = ref.load(file), f"{file}, {variant}"
    after = arrays(file, state.params, state.discriminator_params)
    for net in after:
        prefix = f"{variant}/it{i}.{net}."
        for name in ref.matching(vectors, prefix, ".before_s64"):
            if name not in after[net]:  # a branch that the published head never reaches does not exist here
                assert vectors[f"{prefix}{name}.grad_is_none"]
                assert not ref.truth(vectors, f"{prefix}{name}.delta_s64").any()
                continue
            old, new = before[net][name], after[net][name]
            for kind, ours in (("before", old), ("after", new), ("delta", new - old)):
                truth = ref.truth(vectors, f"{prefix}{name}.{kind}_s64")
                group = "updates" if kind == "delta" else "parameters"
                ref.check(run, group, ref.samples(ours), truth, ref.TRAJECTORY)
            norm = ref.truth(vectors, f"{prefix}{name}.delta_norm")
            ref.check(run, "updates", np.linalg.norm(new - old), norm, ref.TRAJECTORY)
    statistics = dict(ref.named(state.batch_stats, config_of(file)))
    for name, truth in ref.matching(vectors, f"{variant}/it{i}.G.", "_s64").items():
        if name in statistics:
            ref.check(run, "running statistics", ref.samples(statistics[name]), truth, ref.TRAJECTORY)


def stored(file: str, variant: str, i: int) -> bool:
    """Whether the file holds parameters of iteration i."""
    return any(k.startswith(f"{variant}/it{i}.") for k in ref.load(file))


def snapshot(file: str, variant: str, i: int, state: TrainState) -> Arrays:
    """Copies of the parameters that the file holds before iteration i."""
    vectors = ref.load(file)
    return {
        net: {k: v.copy() for k, v in named.items() if f"{variant}/it{i}.{net}.{k}.before_s64__f64" in vectors}
        for net, named in arrays(file, state.params, state.discriminator_params).items()
    }


@cache
def jitted_gradients(file: str) -> Any:
    """Compiled once for all optimizer variants."""
    config = config_of(file)
    return jax.jit(build_gradients(config, build_networks(config)))


@cache
def jitted_update(dilations: tuple[int, ...], variant: str) -> Any:
    config = ref.parity_config(dilations=dilations)
    config.optimizer.variant = variant
    return jax.jit(build_update(config), donate_argnums=0)


def follow(file: str, variant: str, state: TrainState, advance: Callable[..., Any]) -> None:
    """Checks every iteration; `advance` takes (state, batch) to (gradients, metrics, the next state)."""
    for i, batch in enumerate(batches(file)):
        before = snapshot(file, variant, i, state)
        grads, metrics, state = advance(state, batch)
        check_metrics(file, variant, i, metrics)
        check_gradients(file, variant, i, grads)
        if stored(file, variant, i):
            check_state(file, variant, i, before, state)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "variant"), TRAJECTORIES[1:])
def test_trajectory(file: str, variant: str) -> None:
    config = config_of(file, variant)
    update = jitted_update(tuple(config.model.dilations), variant)

    def advance(state: TrainState, batch: dict[str, np.ndarray]) -> tuple[Gradients, Any, TrainState]:
        grads, metrics = jitted_gradients(file)(state, batch)
        return grads, metrics, update(state, grads)

    follow(file, variant, ref.rule_state(config, int(ref.load(file)["seed"]))[0], advance)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "variant"), TRAJECTORIES[:1])
def test_trajectory_of_whole_steps(file: str, variant: str) -> None:
    """As training runs it, in one program; of its gradients the compiler finds that they are part of it."""
    config = config_of(file, variant)
    state, networks = ref.rule_state(config, int(ref.load(file)["seed"]))
    gradients, step = build_gradients(config, networks), build_step(config, networks)
    follow(file, variant, state, jax.jit(lambda *args: (*gradients(*args), step(*args)[0])))
