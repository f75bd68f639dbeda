"""Shared by all tests: a compilation cache on disk, one tiny pair of street domains, and shrunken configs."""

import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
os.environ["JAX_PLATFORMS"] = "cpu"
# Compiling is most of the suite's time: LLVM's optimisations are half of that, and XLA's newer fusions a third of what
# is left; a tenth of the rest, cutting small programs into 32 pieces. `make test-optimized` has all of it. A flag that
# XLA does not know (any more) would end the process.
if not os.environ.get("UDA_JAX_TEST_OPTIMIZED"):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
    if version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from data_prep.streets import builder as streets
from uda_jax.config import default_config
from uda_jax.runs import batch_of

SIZE = (32, 64)
# Options of a single compilation that undo the flags above.
AS_FOR_USERS: dict[str, int | bool] = {"xla_backend_optimization_level": 3}
if version("jaxlib").startswith("0.10."):
    AS_FOR_USERS["xla_cpu_use_fusion_emitters"] = True


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Streets at 32x64: 8 training and 5 validation images a domain."""
    directory = tmp_path_factory.mktemp("data")
    streets.build(directory, size=SIZE, train_images=8, val_images=5, workers=1)
    return directory


def shrink(config: ConfigDict, data_dir: str = "data") -> ConfigDict:
    """The same recipe with a tiny network, tiny images and few steps; what makes it that recipe stays."""
    config = config.copy_and_resolve_references()
    deep = config.model.backbone != "vgg16"
    config.model.update(width=4, pretrained="", backbone="resnet18" if deep else "vgg16")
    if deep:
        config.model.stem_width = 4
    config.discriminator.width = 4
    config.data.dir = str(data_dir)
    for name, domain in (
        ("source", "rendered"),
        ("target", "camera"),
        ("oracle", "camera"),
        ("eval", "camera"),
    ):
        config.data[name].update(dataset=f"streets/{domain}", size=SIZE)
        if name != "eval":
            config.data[name].crop = ()
            if config.data[name].sampling == "rare_class":
                config.data[name].rare_pixels = 0  # as many as tiny images have
    config.data.eval.label_size = ()
    config.train.update(steps=4, batch_size=2, log_every=1, eval_every=100, checkpoint_every=2)
    config.eval.update(batch_size=2, samples=1)
    return config


@pytest.fixture
def config(data_dir: Path) -> ConfigDict:
    """AdaptSegNet, two levels, batch norm on batch statistics, as small as it gets."""
    return shrink(default_config(), str(data_dir))


@pytest.fixture
def least(config: ConfigDict) -> ConfigDict:
    """The least that trains, where the method does not matter."""
    config.method = "source_only"
    config.model.two_levels = False
    return config


def random_batch(config: ConfigDict, seed: int = 0) -> dict[str, jax.Array]:
    """A training batch of noise with the config's shapes, a tenth of its labels ignored."""
    rng = np.random.default_rng(seed)
    shape = (config.train.batch_size, *config.data.source.size)
    labels = rng.integers(0, config.model.num_classes, shape)
    labels[rng.random(shape) < 0.1] = 255
    source, target = (jnp.asarray(rng.integers(0, 256, (*shape, 3)), jnp.uint8) for _ in range(2))
    wanted = batch_of(config)
    batch = {
        "source_image": source,
        "source_label": jnp.asarray(labels, jnp.int32),
        "target_weak" if "target_weak" in wanted else "target_image": target,
    }
    if "labelled_image" in wanted:
        batch |= {"labelled_image": batch["source_image"][:, ::-1], "labelled_label": batch["source_label"][:, ::-1]}
    return batch
