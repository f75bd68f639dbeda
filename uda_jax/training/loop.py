"""The only training loop: data, step, log, checkpoint, evaluate."""

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from jax.profiler import StepTraceAnnotation, TraceAnnotation
from jax.sharding import Mesh

from uda_jax import runs
from uda_jax.config import check_config, check_x64, flatten, stream_of
from uda_jax.data import pipeline
from uda_jax.errors import Stopped, UserError
from uda_jax.evaluation.evaluate import build_evaluation_step, check_classes, evaluate, summary, write_evaluation
from uda_jax.evaluation.unlabelled import label_free, of_source
from uda_jax.files import alone
from uda_jax.methods import build_method
from uda_jax.models.networks import Networks, build_networks
from uda_jax.paths import is_remote, to_path, user_path
from uda_jax.training import ahead, checkpoint, processes, profiling
from uda_jax.training.sharding import check_batch_size, make_mesh, prefetch_to_mesh, replicated, split_images
from uda_jax.training.signals import stop_signals, stoppable
from uda_jax.training.state import TrainState, abstract_state, create_state, make_constants, remember
from uda_jax.training.step import jit_step, steps_key
from uda_jax.training.writer import SCORE, Writer
from uda_jax.weights.trees import load_pretrained

IN_FLIGHT = 2  # steps dispatched and not done: the device never waits, and a signal not for long


class Tools(NamedTuple):
    """What the loop calls.

    Attributes:
      step: (state, batch) -> (state, metrics); the state is donated.
      score: (state, limit=0, samples=None) -> the content of evaluation.json without the step.
      save: (step, state) -> None, in the background.
      stopping: (step) -> whether a signal or a preemption notice came.
      profile: (step, an array of the newest state) -> None, before every step.
      writer: of the log.
    The first two raise Stopped when `stopping`, the step only before it is compiled.
    """

    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    score: Callable[..., dict[str, Any]]
    save: Callable[[int, TrainState], None]
    stopping: Callable[[int], bool]
    profile: Callable[[int, jax.Array], None]
    writer: Writer


def train(config: ml_collections.ConfigDict, workdir: epath.PathLike, profile: str = "") -> TrainState:
    """Trains, or resumes, the run of `config` in `workdir`, evaluates it and returns its last state.

    A run that is done is left as it is.

    Args:
      profile: steps such as "10:15", of which a profile is left in `workdir`/profile: see `profiling.parse_steps`.
    Raises:
      Stopped: on SIGTERM, Ctrl-C or a preemption notice, after a checkpoint was written; the same call goes on from
        there, step for step as if it had not stopped.
      UserError: bad settings or data, a workdir of another run, or a loss that is not finite.
    """
    started, workdir = time.perf_counter(), to_path(workdir)
    mesh = mesh_of(config)
    found = check_run(config, mesh)
    agree_on(config, found)
    profiled = profiling.parse_steps(profile, config.train.steps)
    with stop_signals() as stopped, workdir_of_our_own(workdir):
        before = runs.check_owner(workdir, config, found)
        processes.check_shared(workdir)
        saved = checkpoint.steps(workdir)
        processes.agree({"checkpoints": saved})
        networks = build_networks(config)
        state, constants = start_from(config, networks, mesh, bool(saved))
        found |= runs.check_constants(workdir, before, constants) | runs.licence(config, before)
        with checkpoint.writing(workdir), checkpoint.make_manager(workdir, config.train.keep) as manager:
            state = checkpoint.restore(manager, state)
            if done := runs.finished(workdir, config.train.steps):
                print(f"{workdir} is done; to score it anew, remove its evaluation.json\n{summary(done)}")
                return state

            def save(step: int, state: TrainState) -> None:
                runs.claim(workdir, config)
                writer.put()
                checkpoint.save(manager, step, state, found | runs.clock(before, started))

            def ready(compiled: jax.stages.Compiled) -> None:
                writer.say(ahead.memory_line(ahead.memory_of(compiled), mesh.devices.flat[0]))

            training_step = fitting(stoppable(jit_step(config, networks, mesh), stopped, ready), config)
            key = jax.jit(partial(steps_key, config), out_shardings=replicated(mesh))()
            evaluation_step = stoppable(build_evaluation_step(config, networks, mesh), stopped)
            unlabelled = label_free(config, networks, mesh, stopped)
            method = build_method(config, networks)

            def score(state: TrainState, limit: int = 0, samples: epath.Path | None = None) -> dict[str, Any]:
                def of(weights: Any, samples: epath.Path | None = None) -> dict[str, Any]:
                    return evaluate(weights, config, evaluation_step, mesh, limit, samples, stopped)

                result = of(method.evaluated(state), samples) | {"unlabelled": unlabelled(state)}
                others = {name: of(weights(state)) for name, weights in method.others.items()}
                return result | {"others": {name: {k: x[k] for k in ("miou", "iou")} for name, x in others.items()}}

            with (
                Writer(workdir, int(state.step), config.train.steps, config.method, found["classes"]) as writer,
                profiling.profiler(workdir / "profile", profiled, writer.say) as at_step,
            ):
                tools = Tools(
                    lambda state, batch: training_step(state, batch, constants, key),
                    score,
                    save,
                    lambda step: stopped() or manager.reached_preemption(step),
                    at_step,
                    writer,
                )
                if start := int(state.step):
                    writer.say(f"resuming {workdir} from step {start}")
                if start < config.train.steps:
                    state = run_steps(config, state, mesh, tools)
                    before, started = runs.clock(before, started), time.perf_counter()
                else:
                    save(start, state)  # of a run of no steps at all; any other has it
                result = last_score(config, workdir, state, tools)
                if writer.active:
                    runs.write_run(workdir, found | runs.clock(before, started, trained=False), state)
                    write_evaluation(result, int(state.step), workdir / "evaluation.json")  # last: the run is done
    return state


def agree_on(config: ml_collections.ConfigDict, found: dict[str, Any]) -> None:
    """Raises UserError, in all processes, if they are about to run different things."""
    settings = {f"config.{name}": value for name, value in flatten(config).items() if name != "data.dir"}
    processes.agree({**settings, **found})


@contextmanager
def workdir_of_our_own(workdir: epath.Path) -> Iterator[None]:
    """Keeps other runs out; a workdir that is still empty at the end is removed again. Process 0 alone has a say."""
    if jax.process_index():
        yield
        return
    with alone(workdir, "training"):
        try:
            yield
        finally:
            with suppress(OSError):  # it is not empty
                if not is_remote(workdir):
                    os.rmdir(workdir)  # epath's own overlooks files that end in "~", and removes them


def last_score(
    config: ml_collections.ConfigDict, workdir: epath.Path, state: TrainState, tools: Tools
) -> dict[str, Any]:
    """`tools.score` of the whole split; raises Stopped for a run that was stopped before its end."""
    step, writer = int(state.step), tools.writer
    if step < config.train.steps:
        raise Stopped(f"stopped at step {step}; the same command goes on from there")
    try:
        result = tools.score(state, samples=workdir / "samples")
    except Stopped:
        raise Stopped(f"stopped while evaluating step {step}; the same command does that again") from None
    writer.write(step, logged(result))
    writer.say(summary(result))
    return result


def run_steps(config: ml_collections.ConfigDict, state: TrainState, mesh: Mesh, tools: Tools) -> TrainState:
    """Steps from `state.step` to `config.train.steps`, or until `tools.stopping`; leaves a checkpoint of the last."""
    c, start, clock = config.train, int(state.step), time.perf_counter()
    step = start
    images = c.batch_size * len(runs.streams_of(config))
    pending: list[dict[str, jax.Array]] = []  # metrics not fetched yet, so that steps need not wait for the host
    in_flight: deque[jax.Array] = deque()
    with suppress(Stopped):  # while compiling or evaluating: the state is that of the last step
        make_up(config, state, tools)
        clock = time.perf_counter()
        for batch in prefetch_to_mesh(training_batches(config, step), split_images(mesh)):
            tools.profile(step, state.step)
            if step >= c.steps or tools.stopping(step):
                break
            with StepTraceAnnotation("train", step_num=step):
                state, metrics = tools.step(state, batch)
            step += 1
            pending.append(metrics)
            wait(in_flight, metrics["loss"])
            evaluating, saving = step % c.eval_every == 0 and step < c.steps, step % c.checkpoint_every == 0
            if step % c.log_every == 0 or evaluating or saving:
                flush(pending, step, tools.writer, images, clock)
                if saving:
                    with TraceAnnotation("save"):
                        tools.save(step, state)
                if evaluating:
                    log_score(config, step, state, tools)
                clock = time.perf_counter()
    flush(pending, step, tools.writer, images, clock)
    if step > start:
        tools.save(step, state)
    return state


def fitting(step: Callable[..., Any], config: ml_collections.ConfigDict) -> Callable[..., Any]:
    """The step, with a UserError that says what would help where a device's memory or compiler refuses it."""

    def call(*arguments: Any) -> Any:
        try:
            return step(*arguments)
        except Exception as error:
            if ahead.out_of_memory(error):
                first = str(error).splitlines()[0]
                raise UserError(f"a step does not fit ({first}); {ahead.what_would_help(config)}") from error
            ahead.check_options_known(error, config)
            raise

    return call


def wait(in_flight: deque[jax.Array], newest: jax.Array) -> None:
    """Notes that `newest` is being computed, and waits until fewer than `IN_FLIGHT` of them all are."""
    in_flight.append(newest)
    while len(in_flight) >= IN_FLIGHT:
        in_flight.popleft().block_until_ready()


def make_up(config: ml_collections.ConfigDict, state: TrainState, tools: Tools) -> None:
    """The evaluation of the step that a run resumes from, where it was due and the run ended before it was done."""
    step = int(state.step)
    due = step > 0 and step % config.train.eval_every == 0 and step not in tools.writer.evaluated
    if bool(multihost_utils.broadcast_one_to_all(np.asarray(due))):  # process 0 knows the log
        log_score(config, step, state, tools)


def log_score(config: ml_collections.ConfigDict, step: int, state: TrainState, tools: Tools) -> None:
    with TraceAnnotation("evaluate"):
        result = tools.score(state, limit=config.eval.limit)
    tools.writer.write(step, logged(result))


def logged(result: dict[str, Any]) -> dict[str, float]:
    """What the log has of an evaluation, under its names."""
    others = {f"{SCORE}_{name}": other["miou"] for name, other in result["others"].items()}
    return {SCORE: result["miou"], **{f"eval/{name}": value for name, value in result["unlabelled"].items()}, **others}


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
    mean = {k: np.mean([m[k] for m in fetched], axis=0) for k in fetched[0]}
    rate = images * len(fetched) / (time.perf_counter() - clock)
    writer.judge(step, writer.write(step, {**mean, "images_per_s": rate}))
    writer.progress(len(fetched), loss=mean["loss"], images_per_s=rate)


def initial_state(config: ml_collections.ConfigDict, networks: Networks, mesh: Mesh) -> TrainState:
    """A fresh state on the mesh, with the pretrained weights of `config.model.pretrained` if it names any."""
    state = jax.jit(partial(create_state, config, networks), out_shardings=replicated(mesh))()
    if not config.model.pretrained:
        return state
    state = load_pretrained(state, config.model.pretrained, config.model)
    if jax.process_count() > 1:
        processes.agree({"the weights of config.model.pretrained": runs.digest(state.params)})
    return jax.jit(partial(remember, config=config, networks=networks), out_shardings=replicated(mesh))(state)


def start_from(
    config: ml_collections.ConfigDict, networks: Networks, mesh: Mesh, resuming: bool
) -> tuple[TrainState, Any]:
    """(state, the method's constants); where a checkpoint fills the state, its shapes and placement are enough.

    Weights are made or read for a new run, and for constants, which are made of them.
    """
    if resuming and build_method(config, networks).init_constants is None:
        return abstract_state(config, networks, mesh), {}
    state = initial_state(config, networks, mesh)
    make = jax.jit(partial(make_constants, config, networks), out_shardings=replicated(mesh))
    constants = make(state.params, state.batch_stats)
    return abstract_state(config, networks, mesh) if resuming else state, constants


def training_batches(config: ml_collections.ConfigDict, start: int) -> Iterator[dict[str, np.ndarray]]:
    """This process's part of every global batch from step `start` on, by "<stream>_<view>" and "<stream>_label"."""
    streams = {
        name: pipeline.train_stream(
            config.data.dir,
            stream_of(config, name),
            batch_size=config.train.batch_size,
            seed=config.seed,
            domain=name,
            start=start,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            labels=stream.labels,
            views=stream.views,
        )
        for name, stream in runs.streams_of(config).items()
    }
    while True:
        with TraceAnnotation("data"):
            batch = {f"{name}_{k}": v for name, batches in streams.items() for k, v in next(batches).items()}
        yield batch


def mesh_of(config: ml_collections.ConfigDict) -> Mesh:
    """All devices as `config.mesh` has them; raises UserError as `check_config` and `make_mesh`."""
    check_config(config)
    return make_mesh(space=config.mesh.space)


def check_run(config: ml_collections.ConfigDict, mesh: Mesh) -> dict[str, Any]:
    """Raises UserError for what cannot work, before anything is written; returns `runs.describe`."""
    check_config(config)
    check_x64(config.model)
    user_path(config.data.dir, "--config.data.dir")
    if config.model.pretrained:
        user_path(config.model.pretrained, "--config.model.pretrained")
    check_batch_size(config.train.batch_size, mesh.shape["data"] * config.train.accumulate, "train.batch_size")
    check_batch_size(config.eval.batch_size, mesh.devices.size, "eval.batch_size")
    streams = runs.streams_of(config)
    check_classes(config, [name for name, stream in streams.items() if stream.labels] + ["eval"])
    if config.eval.source_split:
        check_classes(of_source(config), ["eval"])
    for name, stream in streams.items():
        pipeline.check_sampling(config.data.dir, stream_of(config, name), stream.labels, name)
    return runs.describe(config)
