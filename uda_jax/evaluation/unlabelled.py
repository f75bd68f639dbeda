"""How good a segmenter might be, told without target labels: what a checkpoint can be chosen by.

Each score is of unlabelled images of the target (`config.eval.unlabelled` of them), but for the mIoU on a labelled
split of the source (`config.eval.source_split`). None is mIoU on the target; docs/choosing.md has how they rank runs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from uda_jax.data import pipeline
from uda_jax.evaluation.evaluate import build_evaluation_step, evaluate
from uda_jax.evaluation.selection import SCORES
from uda_jax.methods import build_method
from uda_jax.methods.contract import student
from uda_jax.models.networks import Networks
from uda_jax.training.sharding import replicated, split_batch, to_mesh
from uda_jax.training.signals import stoppable

MIXED = 0.55  # share of the image whose prediction the mixed one's is compared with, as in MixVal
TEMPERATURE = 0.05  # of neighbourhood densities, as published
NEIGHBOURS = 1024  # places an image, at most, among which they are measured


def label_free(
    config: ml_collections.ConfigDict, networks: Networks, mesh: Mesh, stopped: Callable[[], bool] = lambda: False
) -> Callable[[Any], dict[str, float]]:
    """(state) -> {name of `SCORES`: value} of those that the config asks for and the method has.

    The functions raise Stopped where `stopped`.
    """
    scored = []
    if config.eval.unlabelled:
        step = stoppable(build_unlabelled_step(config, networks, mesh), stopped)
        scored.append(lambda state: score_target(state, config, step, mesh))
    if config.eval.source_split:
        source, weights = of_source(config), build_method(config, networks).evaluated
        score = stoppable(build_evaluation_step(source, networks, mesh), stopped)
        scored.append(
            lambda state: {"source_miou": evaluate(weights(state), source, score, mesh, stopped=stopped)["miou"]}
        )
    return lambda state: {name: value for score in scored for name, value in score(state).items()}


def of_source(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config whose evaluation is that of the source's split, in the size that training sees."""
    source = config.copy_and_resolve_references()
    source.data.eval.update(
        dataset=config.data.source.dataset,
        split=config.eval.source_split,
        size=config.data.source.size,
        label_size=(),
    )
    return source


def score_target(
    state: Any, config: ml_collections.ConfigDict, step: Callable[..., Any], mesh: Mesh
) -> dict[str, float]:
    """The scores of the first `config.eval.unlabelled` images of `config.data.target`; their labels are not read.

    Args:
      step: from `build_unlabelled_step`.
    """
    stream = config.data.eval.copy_and_resolve_references()
    stream.update(dataset=config.data.target.dataset, split=config.data.target.split, label_size=())
    batches = pipeline.eval_batches(
        config.data.dir,
        stream,
        batch_size=config.eval.batch_size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        limit=config.eval.unlabelled,
        labels=False,
    )
    before, rows = None, []
    for batch in batches:
        image, mask = batch["image"], batch["mask"]
        other = image if before is None else before
        pair = to_mesh({"image": image, "other": other}, split_batch(mesh))
        found = {k: _local(v)[mask] for k, v in step(state, pair).items()}
        if before is None:  # mixed with themselves
            found["mixval"] = np.zeros_like(found["mixval"])
        count = len(found["entropy"])
        rows.append({"count": np.ones(count), "pairs": np.full(count, before is not None), **found})
        before = image
    sums = {name: np.concatenate([row[name] for row in rows]).sum(0, dtype=np.float64) for name in rows[0]}
    if jax.process_count() > 1:
        sums = {name: values.sum(0) for name, values in multihost_utils.process_allgather(sums, tiled=False).items()}
    return _means(sums, config.model.num_classes)


def _local(value: jax.Array) -> np.ndarray:
    """This process's rows."""
    shards = sorted(value.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([shard.data for shard in shards])


def _means(sums: Mapping[str, np.ndarray], classes: int) -> dict[str, float]:
    """Scores from sums over images."""
    means = {name: float(sums[name] / sums["count"]) for name in sums.keys() & SCORES.keys()}
    marginal = sums["marginal"] / sums["count"]
    spread = -np.sum(marginal * np.log(np.maximum(marginal, 1e-30))) / np.log(classes)
    means["information"] = float(spread) - means["entropy"]
    means["mixval"] = float(sums["mixval"] / sums["pairs"]) if sums["pairs"] else float("nan")
    return means


def build_unlabelled_step(config: ml_collections.ConfigDict, networks: Networks, mesh: Mesh) -> Callable[..., Any]:
    """Jitted (state, {"image", "other": uint8 [B, H, W, 3]}) -> {name: float32 [B]}, of each image:

    - entropy: mean over pixels of the entropy of the softmax, of log(classes).
    - marginal [B, classes]: mean softmax, of which "information" is made: the entropy of its mean over all images, less
      the mean entropy (Krause et al., 2010; Shi and Sha, 2012), in the same unit.
    - density: soft neighbourhood density (Saito et al., ICCV 2021, eqs. 1 to 3) of the softmax at places on a grid.
    - flips: share of pixels whose class is the same in the mirrored image.
    - mixval: share of pixels whose class stays when 45 % of the image are another image's (after MixVal, Hu et al.,
      NeurIPS 2023, which ranks images of one class and of several apart; pixels are not told apart here).
    - agreement: share of pixels of which student and teacher say the same, for methods that have a teacher.
    """
    method = build_method(config, networks)

    def step(state: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        scored = method.evaluated(state)

        def softmax(image: jax.Array, params: Any, stats: Any) -> jax.Array:
            return jax.nn.softmax(networks.predict(params, stats, image).main.astype(jnp.float32))

        def classes(image: jax.Array, params: Any = scored["params"], stats: Any = scored["batch_stats"]) -> jax.Array:
            return networks.predict(params, stats, image).main.argmax(-1)

        image = batch["image"]
        probabilities = softmax(image, scored["params"], scored["batch_stats"])
        chosen = probabilities.argmax(-1)
        mixed = MIXED * image.astype(jnp.float32) + (1 - MIXED) * batch["other"].astype(jnp.float32)
        found = {
            "entropy": entropy(probabilities).mean((1, 2)) / np.log(config.model.num_classes),
            "marginal": probabilities.mean((1, 2)),
            "density": jax.vmap(neighbourhood_density)(probabilities),
            "flips": _share(chosen == classes(image[:, :, ::-1])[:, :, ::-1]),
            "mixval": _share(chosen == classes(jnp.round(mixed).astype(jnp.uint8))),
        }
        other = method.others.get("teacher", student)(state)
        if scored["params"] is not other["params"]:
            found["agreement"] = _share(chosen == classes(image, other["params"], other["batch_stats"]))
        return found

    return jax.jit(step, in_shardings=(replicated(mesh), split_batch(mesh)), out_shardings=split_batch(mesh))


def _share(same: jax.Array) -> jax.Array:
    return same.mean((1, 2), dtype=jnp.float32)


def entropy(probabilities: jax.Array) -> jax.Array:
    """Of distributions [..., classes], in nats: [...]."""
    return -jnp.sum(probabilities * jnp.log(jnp.maximum(probabilities, 1e-30)), -1)


def neighbourhood_density(probabilities: jax.Array) -> jax.Array:
    """Mean entropy of each place's similarities to the others, in nats: float32 [].

    Args:
      probabilities: [H, W, classes]; at most `NEIGHBOURS` of them are looked at, on an even grid.
    """
    height, width, classes = probabilities.shape
    stride = int(np.ceil(np.sqrt(height * width / NEIGHBOURS)))
    features = probabilities[stride // 2 :: stride, stride // 2 :: stride].reshape(-1, classes)
    features /= jnp.linalg.norm(features, axis=-1, keepdims=True)
    similarity = features @ features.T / TEMPERATURE
    others = jnp.where(jnp.eye(len(features), dtype=bool), -jnp.inf, similarity)
    return entropy(jax.nn.softmax(others)).mean()
