"""Scores a segmenter on a labelled split: confusion matrix on device, every image counted once."""

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from PIL import Image

from uda_jax.config import path_of, stream_of
from uda_jax.data import labels, pipeline
from uda_jax.errors import Stopped, UserError
from uda_jax.evaluation.metrics import confusion_matrix, described
from uda_jax.files import AnyPath, make_directory, to_json, write_whole
from uda_jax.models.networks import Networks
from uda_jax.training.sharding import replicated, split_batch, to_mesh


def build_evaluation_step(config: ml_collections.ConfigDict, networks: Networks, mesh: Mesh) -> Callable[..., Any]:
    """Jitted (weights, batch) -> (confusion int32 [classes, classes], predictions uint8 [B, H, W]).

    Weights are {"params", "batch_stats"}, the method's `evaluated` or one of its `others`. Logits are upsampled once,
    from the head's size to the label's, as in the published evaluation. Padding images (batch["mask"] False) count as
    ignored.
    """
    size = tuple(config.data.eval.label_size or config.data.eval.size)

    def step(weights: dict[str, Any], batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        outputs = networks.predict(weights["params"], weights["batch_stats"], batch["image"], size)
        predictions = outputs.main.argmax(-1)
        truth = jnp.where(batch["mask"][:, None, None], batch["label"], labels.IGNORE)
        return confusion_matrix(truth, predictions, config.model.num_classes), predictions.astype(jnp.uint8)

    return jax.jit(
        step,
        in_shardings=(replicated(mesh), split_batch(mesh)),
        out_shardings=(replicated(mesh), split_batch(mesh)),
    )


def evaluate(
    weights: Any,
    config: ml_collections.ConfigDict,
    step: Callable[..., Any],
    mesh: Mesh,
    limit: int = 0,
    samples: AnyPath | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """One pass over `config.data.eval`; the result is the content of evaluation.json without the step.

    Args:
      weights, step: of and from `build_evaluation_step`.
      limit: score only the first images, 0 for all.
      samples: where to keep pictures of the first `config.eval.samples` images.
      stopped: asked before every batch.
    Raises:
      Stopped: `stopped` said so.
    """
    n, names = config.model.num_classes, class_names(config)
    total, images = np.zeros((n, n), np.int64), 0
    for batch in _batches(config, limit):
        if stopped():
            raise Stopped("stopped while evaluating")
        arrays = {k: batch[k] for k in ("image", "label", "mask")}
        confusion, predictions = step(weights, to_mesh(arrays, split_batch(mesh)))
        total += np.asarray(confusion, np.int64)
        if samples is not None and jax.process_index() == 0 and images < config.eval.samples:
            local = np.concatenate([s.data for s in predictions.addressable_shards])
            _save_samples(samples, batch, local, config.eval.samples - images, labels.palette(names))
        images += int(batch["mask"].sum())
    if jax.process_count() > 1:
        images = int(multihost_utils.process_allgather(np.asarray(images)).sum())
    return {
        "dataset": config.data.eval.dataset,
        "split": config.data.eval.split,
        "images": images,
        **described(total, names, config.eval.classes),
    }


def summary(result: dict[str, Any]) -> str:
    """The per-class table as text, in percent; "-" for what does not occur."""

    def row(name: str, ratio: float | None) -> str:
        return f"  {name:<12} {'-' if ratio is None or np.isnan(ratio) else f'{100 * ratio:5.1f}':>5}"

    lines = [f"{result['dataset']} {result['split']}, {result['images']} images, IoU in %"]
    lines += [row(*item) for item in result["iou"].items()]
    over = sum(result["iou"][name] is not None for name in result["scored"])
    missing = len(result["scored"]) - over
    note = f" ({missing} of those to score do not occur)" if missing else ""
    lines.append(f"{row('mean', result['miou'])} over {over} classes{note}")
    lines += [f"{row('mean', other['miou'])} of the {name}" for name, other in result.get("others", {}).items()]
    return "\n".join(lines)


def class_names(config: ml_collections.ConfigDict) -> list[str]:
    """The classes of the evaluated dataset by train id."""
    return list(pipeline.describe(config.data.dir, config.data.eval.dataset, config.data.eval.split)["classes"])


def check_classes(config: ml_collections.ConfigDict, streams: Iterable[str]) -> None:
    """Checks the model's classes against those of the labelled datasets; call it before anything is built.

    Args:
      streams: which of `config.data` the run reads, such as "source" and "eval".
    Raises:
      UserError: a dataset or its labels are missing, it has another number of classes than
        `config.model.num_classes` or other classes than the one before it, or `config.eval.classes` goes beyond them.
    """
    n, first = config.model.num_classes, ""
    expected: list[str] = []
    for name in streams:
        stream = stream_of(config, name)
        info = pipeline.describe(config.data.dir, stream.dataset, stream.split)
        what, classes = f"{stream.dataset} ({path_of(name)})", list(info["classes"])
        if name == "target":
            continue  # its labels are not read
        if not info["labelled"]:
            raise UserError(f"{what} has no labels in its split {stream.split!r}, which are needed: name another set")
        if len(classes) != n:
            raise UserError(
                f"config.model.num_classes={n}, but {what} has {len(classes)} classes: {_some(classes)}. "
                f"Set --config.model.num_classes={len(classes)}, or build it with another label map."
            )
        if first and classes != expected:
            raise UserError(
                f"{first} and {what} have different classes: {_some(expected)} against {_some(classes)}. "
                "Build both with one label map."
            )
        first, expected = what, classes
    beyond = [i for i in config.eval.classes if not 0 <= i < n]
    if beyond:
        raise UserError(
            f"config.eval.classes has {beyond}, but the train ids are 0..{n - 1} (config.model.num_classes)"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])}, ..."


def _batches(config: ml_collections.ConfigDict, limit: int) -> Iterator[dict[str, Any]]:
    return pipeline.eval_batches(
        config.data.dir,
        config.data.eval,
        batch_size=config.eval.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        limit=limit,
    )


def _save_samples(
    directory: AnyPath, batch: dict[str, Any], predictions: np.ndarray, count: int, palette: np.ndarray
) -> None:
    """<id>_image.png, <id>_truth.png and <id>_prediction.png of the batch's first `count` real images."""
    make_directory(directory)
    for i in np.flatnonzero(batch["mask"])[:count]:
        stem = batch["id"][i].replace("/", "_")
        write_whole(directory / f"{stem}_image.png", _png(Image.fromarray(batch["image"][i])))
        for name, ids in (("truth", batch["label"][i]), ("prediction", predictions[i])):
            picture = Image.fromarray(ids.astype(np.uint8))
            picture.putpalette(palette.ravel().tolist())
            write_whole(directory / f"{stem}_{name}.png", _png(picture))


def _png(picture: Image.Image) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "png")
    return encoded.getvalue()


def write_evaluation(result: dict[str, Any], step: int, path: AnyPath) -> None:
    """evaluation.json, which the report reads."""
    write_whole(path, to_json({"step": step, **result}, indent=1) + "\n")
