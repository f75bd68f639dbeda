"""The only training loop: data, step, log, evaluate, checkpoint."""

import importlib.metadata
import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from uda_jax import checkpoint
from uda_jax.config import check_config, check_x64, claim_workdir
from uda_jax.data import pipeline
from uda_jax.errors import UserError
from uda_jax.evaluate import build_evaluation_step, check_classes, evaluate, summary, write_evaluation
from uda_jax.methods import METHODS
from uda_jax.networks import Networks, build_networks
from uda_jax.sharding import check_batch_size, make_mesh, prefetch_to_mesh, replicated, split_batch
from uda_jax.state import TrainState, create_state
from uda_jax.step import build_step
from uda_jax.weights import load_pretrained
from uda_jax.writer import Writer

VERSIONED = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")


def train(config: ml_collections.ConfigDict, workdir: Path) -> TrainState:
    """Trains, or resumes, the run of `config` in `workdir`, evaluates it and returns its last state.

    On SIGTERM, Ctrl-C or a preemption notice it writes a checkpoint and returns early; the same call goes on from
    there, step for step as if it had not stopped.

    Raises:
      UserError: bad settings or data, a workdir of another run, or a loss that is not finite.
    """
    started = time.perf_counter()
    mesh = make_mesh()
    check_run(config, mesh)
    networks = build_networks(config)
    state = initial_state(config, networks, mesh)  # pretrained weights that do not fit must not claim the workdir
    claim_workdir(workdir, config)
    manager = checkpoint.make_manager(workdir, config.train.keep)
    state = checkpoint.restore(manager, state)
    start = int(state.step)
    score = partial(evaluate, config=config, step=build_evaluation_step(config, networks, mesh), mesh=mesh)

    with Writer(workdir, start, config.train.steps, config.method) as writer, stop_signals() as stopped:
        if start:
            writer.say(f"resuming {workdir} from step {start}")
        state = run_steps(config, networks, state, mesh, manager, writer, score, stopped)
        step = int(state.step)
        if step < config.train.steps:
            writer.say(f"stopped at step {step}; the same command goes on from there")
        else:
            trained = time.perf_counter() - started
            result = score(state, samples=workdir / "samples")
            writer.write(step, {"eval/miou": result["miou"]})
            writer.say(summary(result))
            if writer.active:
                write_evaluation(result, step, workdir / "evaluation.json")
                write_run(workdir, state, trained, time.perf_counter() - started)
    manager.wait_until_finished()
    manager.close()
    return state


def finish(config: ml_collections.ConfigDict, workdir: Path) -> bool:
    """Trains unless `workdir` holds this very run, trained to the end and evaluated; False if a signal stopped it.

    Raises:
      UserError: as `train`.
    """
    evaluation = workdir / "evaluation.json"
    if evaluation.exists():
        claim_workdir(workdir, config)
        if json.loads(evaluation.read_text())["step"] >= config.train.steps:
            return True
    return int(train(config, workdir).step) >= config.train.steps


def run_steps(
    config: ml_collections.ConfigDict,
    networks: Networks,
    state: TrainState,
    mesh: Mesh,
    manager: Any,
    writer: Writer,
    score: Callable[..., dict[str, Any]],
    stopped: Callable[[], bool],
) -> TrainState:
    """Steps from `state.step` to `config.train.steps`, or until `stopped`, and leaves a checkpoint of the last."""
    step_fn = jit_step(config, networks, mesh)
    c, step = config.train, int(state.step)
    images = c.batch_size * len(METHODS[config.method].DOMAINS)
    pending: list[dict[str, jax.Array]] = []  # metrics not fetched yet, so that steps need not wait for the host
    clock = time.perf_counter()
    for batch in prefetch_to_mesh(training_batches(config, step), mesh):
        stopping = stopped() or manager.reached_preemption(step)
        if stopping or step >= c.steps:
            break
        state, metrics = step_fn(state, batch)
        step += 1
        pending.append(metrics)
        evaluating, saving = step % c.eval_every == 0 and step < c.steps, step % c.checkpoint_every == 0
        if step % c.log_every == 0 or evaluating or saving:
            flush(pending, step, writer, images, clock)
            if evaluating:
                writer.write(step, {"eval/miou": score(state, limit=config.eval.limit)["miou"]})
            if saving:
                checkpoint.save(manager, step, state)
            clock = time.perf_counter()
    flush(pending, step, writer, images, clock)
    checkpoint.save(manager, step, state)
    return state


def flush(pending: list[dict[str, jax.Array]], step: int, writer: Writer, images: int, clock: float) -> None:
    """Fetches and logs the mean of the pending metrics, and empties the list.

    Args:
      step: the step that the last of them belongs to.
      images: images a step.
      clock: when the first of them started, from time.perf_counter().

    Raises:
      UserError: a loss or gradient is not finite; names the first such step and its losses.
    """
    if not pending:
        return
    fetched = jax.device_get(pending)
    pending.clear()
    for i, metrics in enumerate(fetched):
        losses = {k: float(v) for k, v in metrics.items() if k.startswith(("loss", "grad_norm"))}
        if not all(map(math.isfinite, losses.values())):
            raise UserError(
                f"the loss is not finite at step {step - len(fetched) + i + 1}: {losses}. The last checkpoint before "
                "it is kept. Lower config.optimizer.learning_rate or look at the data that this step read."
            )
    mean = {k: float(np.mean([m[k] for m in fetched])) for k in fetched[0]}
    rate = images * len(fetched) / (time.perf_counter() - clock)
    writer.write(step, {**mean, "images_per_s": rate})
    writer.progress(len(fetched), loss=mean["loss"], images_per_s=rate)


def jit_step(config: ml_collections.ConfigDict, networks: Networks, mesh: Mesh) -> Any:
    """`build_step` compiled for the mesh: state replicated and donated, batch split."""
    return jax.jit(
        build_step(config, networks),
        donate_argnums=0,
        in_shardings=(replicated(mesh), split_batch(mesh)),
        out_shardings=replicated(mesh),
    )


def initial_state(config: ml_collections.ConfigDict, networks: Networks, mesh: Mesh) -> TrainState:
    """A fresh state on the mesh, with the pretrained weights of `config.model.pretrained` if it names any."""
    state = jax.jit(partial(create_state, config, networks), out_shardings=replicated(mesh))()
    return load_pretrained(state, config.model.pretrained, config.model) if config.model.pretrained else state


def training_batches(config: ml_collections.ConfigDict, start: int) -> Iterator[dict[str, np.ndarray]]:
    """This process's part of every global batch from step `start` on, by "<domain>_<what>"."""
    streams = {
        domain: pipeline.train_stream(
            config.data.dir,
            config.data[domain],
            batch_size=config.train.batch_size,
            seed=config.seed,
            start=start,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            labels=domain == "source",
            shuffle_buffer=config.data.shuffle_buffer,
        )
        for domain in METHODS[config.method].DOMAINS
    }
    while True:
        yield {f"{domain}_{k}": v for domain, stream in streams.items() for k, v in next(stream).items()}


def check_run(config: ml_collections.ConfigDict, mesh: Mesh) -> None:
    """Raises UserError for what cannot work, before anything is written."""
    check_config(config)
    check_x64(config.model)
    check_batch_size(config.train.batch_size, mesh, "train.batch_size")
    check_batch_size(config.eval.batch_size, mesh, "eval.batch_size")
    check_classes(config, (*METHODS[config.method].DOMAINS, "eval"))


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM and Ctrl-C into a flag. With several processes Orbax agrees on preemption instead."""
    caught: list[int] = []
    if jax.process_count() > 1:
        yield lambda: False
        return
    previous = {s: signal.signal(s, lambda number, _: caught.append(number)) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: bool(caught)
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)


def write_run(workdir: Path, state: TrainState, train_seconds: float, wall_seconds: float) -> None:
    """run.json: times of this process, versions, devices and sizes."""

    def size(tree: Any) -> int:
        return sum(x.size for x in jax.tree.leaves(tree))

    run = {
        "wall_s": round(wall_seconds, 1),
        "train_s": round(train_seconds, 1),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "parameters": {"segmenter": size(state.params), "discriminators": size(state.discriminator_params)},
    }
    (workdir / "run.json").write_text(json.dumps(run, indent=1) + "\n")
