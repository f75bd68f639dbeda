import ast
import os
import shutil
from pathlib import Path

import pytest

from tests.test_main import TINY
from tests.training.forked import Forked
from tests.training.test_distributed import assert_same
from uda_jax.errors import UserError
from uda_jax.training.sharding import check_batch_size

ON_EIGHT_DEVICES = """
from functools import partial
import jax, numpy as np
from tests.conftest import random_batch, shrink
from uda_jax.config import default_config
from uda_jax.models.networks import build_networks
from uda_jax.runs import batch_of
from uda_jax.training.sharding import make_mesh, replicated, split_images, to_mesh
from uda_jax.training.state import create_state, make_constants
from uda_jax.training.step import jit_step, steps_key

config = shrink(default_config())
config.model.update(dtype="float64", param_dtype="float64", init="he", two_levels=False)
{settings}
config.train.batch_size = 8
networks = build_networks(config)
assert jax.device_count() == 8
results = []
for devices, space in ((jax.devices(), {space}), (jax.devices()[:1], 1)):
    mesh = make_mesh(devices, space)
    state = jax.jit(lambda: create_state(config, networks), out_shardings=replicated(mesh))()
    make = jax.jit(partial(make_constants, config, networks), out_shardings=replicated(mesh))
    constants = make(state.params, state.batch_stats)
    step = jit_step(config, networks, mesh)
    for seed in range({steps}):
        batch = {{name: x for name, x in random_batch(config, seed).items() if name in batch_of(config)}}
        batch = to_mesh(batch, split_images(mesh))
        assert len(batch["source_image"].addressable_shards) == len(devices)
        state, metrics = step(state, batch, constants, steps_key(config))
    {check}
    trees = (state.params, state.batch_stats, state.discriminator_params, state.memory, metrics)
    results.append(jax.device_get(trees))
worst = jax.tree.map(lambda a, b: np.max(np.abs(a - b) / (1e-3 + np.abs(b))), *results)
print("worst", max(jax.tree.leaves(worst)))
"""


def run_on(devices: int, module: str, *args: str, x64: bool = False) -> str:
    """What a program of ours, or code after "-c", prints where it sees so many CPU devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    program = Forked(module, *args, x64=x64, XLA_FLAGS=flags)
    assert program.ended(within=800) == 0, program.printed()
    return program.printed()


def eight_against_one(settings: str = "", steps: int = 2, check: str = "", space: int = 1) -> float:
    """The worst relative difference between a state after `steps` steps on eight devices and on one, in float64.

    Args:
      settings: a line of code that changes `config`.
      check: a line of code on the `metrics` of the last step.
      space: how many of the eight share an image.
    """
    code = ON_EIGHT_DEVICES.format(settings=settings, steps=steps, check=check, space=space)
    return float(run_on(8, "-c", code, x64=True).split()[-1])


@pytest.mark.slow
def test_eight_devices_give_the_result_of_one() -> None:
    """Two steps on the same global batch, batch norm on its global statistics."""
    assert eight_against_one() < 1e-10


@pytest.mark.slow
def test_eight_devices_mix_and_mask_as_one_does() -> None:
    """Classes of the whole batch, its one weight, a teacher and all that is drawn."""
    settings = "config.method = 'mic'; config.mic.update(threshold=0.06, mask_block=8, feature_classes=())"
    check = 'assert 0 < metrics["sure_target"] < 1 and metrics["loss_distance"] > 0, metrics'
    assert eight_against_one(settings, check=check) < 1e-10


APODA = "config.method = 'apoda'; config.apoda.update(warmup_steps=1, relative_eps=True)"
# The laptop's network with one block a stage.
LAPTOP = """from uda_jax.models.efficientnet import SCALES
SCALES['efficientnet_lite0'] = (0.25, 0.25)
config.model.update(backbone='efficientnet_lite0', head='daformer', head_width=8, init='normal')
config.method = 'source_only'"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "height", "settings"),
    [
        (4, 71, ""),  # no layer's rows are a multiple of four
        (8, 96, "config.model.norm = 'frozen'"),  # fewer rows than devices in the last layers
        (2, 70, LAPTOP),
        (4, 50, APODA),
    ],
)
def test_devices_that_share_images_give_the_result_of_one(space: int, height: int, settings: str) -> None:
    sizes = "; ".join(f"config.data.{name}.size = ({height}, 64)" for name in ("source", "target"))
    check = "assert config.method != 'apoda' or metrics['rms_target'] > 0"
    assert eight_against_one(f"{sizes}; {settings}", check=check, space=space) < 1e-10


ACCUMULATED = """
import jax, numpy as np
from tests.conftest import random_batch, shrink
from uda_jax.config import default_config
from uda_jax.models.networks import build_networks
from uda_jax.training.step import jit_step, steps_key
from uda_jax.training.sharding import make_mesh, replicated, split_images, to_mesh
from uda_jax.training.state import create_state

config = shrink(default_config())
config.model.update(dtype="float64", param_dtype="float64", init="he", norm="frozen")
config.train.batch_size = 8
results, mesh = [], make_mesh()
for parts in (1, 4):
    config.train.accumulate = parts
    networks = build_networks(config)
    state = jax.jit(lambda: create_state(config, networks), out_shardings=replicated(mesh))()
    step = jit_step(config, networks, mesh)
    for seed in range(2):
        batch = random_batch(config, seed)
        batch["source_label"] = np.where(batch["source_label"] == 255, 0, batch["source_label"])  # as many in each part
        state, metrics = step(state, to_mesh(batch, split_images(mesh)), {}, steps_key(config))
    results.append(jax.device_get((state.params, state.discriminator_params, metrics)))
worst = jax.tree.map(lambda a, b: np.max(np.abs(a - b) / (1e-3 + np.abs(b))), *results)
print("worst", max(jax.tree.leaves(worst)))
"""


@pytest.mark.slow
def test_a_batch_in_parts_trains_what_the_whole_one_does() -> None:
    """In float64, over two devices: equal but for the order of the sums where all parts weigh the same."""
    assert float(run_on(2, "-c", ACCUMULATED, x64=True).split()[-1]) < 1e-10


@pytest.mark.slow
def test_a_checkpoint_of_four_devices_goes_on_with_one_and_with_eight(data_dir: Path, tmp_path: Path) -> None:
    """In float64, to rounding: with another number of devices the same sums are added up in another order."""
    common = [*TINY, f"--config.data.dir={data_dir}", "--config.train.batch_size=8", "--config.eval.batch_size=8"]
    common += ["--config.model.dtype=float64", "--config.model.param_dtype=float64"]

    def train_on(devices: int, name: str, steps: int, *more: str) -> None:
        arguments = [*common, f"--workdir={tmp_path / name}", f"--config.train.steps={steps}", *more]
        run_on(devices, "uda_jax.main", *arguments, x64=True)

    train_on(1, "whole", 4)
    train_on(4, "four", 2)
    for devices, more in ((1, ()), (8, ("--config.mesh.space=2",))):
        shutil.copytree(tmp_path / "four", tmp_path / f"{devices}")
        train_on(devices, f"{devices}", 4, *more)
        assert_same(tmp_path / "whole", tmp_path / f"{devices}", 1e-10, scores=False)


COLLECTIVES = """
import jax
from tests.conftest import shrink
from uda_jax.config import default_config
from uda_jax.training.ahead import compile_step
from uda_jax.training.hlo import collectives, operations
from uda_jax.training.sharding import make_mesh

config = shrink(default_config())
config.train.batch_size = 4
for name in ("source", "target"):
    config.data[name].size = (128, 64)
for space in (1, 2):
    found = collectives(operations(compile_step(config, make_mesh(space=space)).as_text()))
    print([(kind, *each) for kind, sizes in found.items() for each in sizes if kind != "all-reduce"])
"""


@pytest.mark.slow
def test_devices_send_each_other_sums_borders_and_small_logits_alone() -> None:
    """The compiled program's collectives: no device ever holds the whole batch's features, or an image's."""
    alone, shared = (ast.literal_eval(line) for line in run_on(4, "-c", COLLECTIVES).splitlines()[-2:])
    assert alone == []
    logits = 2 * 18 * 9 * 19 * 4  # bytes: two images a device, the rows of two groups, float32
    assert {kind for kind, *_ in shared} == {"collective-permute", "all-gather"}
    for kind, size, shape in shared:
        assert size <= logits, (kind, shape)


def test_a_batch_that_does_not_divide_says_by_what() -> None:
    check_batch_size(3, 1, "train.batch_size")
    with pytest.raises(UserError, match=r"train.batch_size=0 is not divisible by the 1 devices"):
        check_batch_size(0, 1, "train.batch_size")


def test_the_message_for_many_devices() -> None:
    code = (
        "from uda_jax.training.sharding import *\n"
        "try: check_batch_size(6, make_mesh().devices.size, 'train.batch_size')\n"
        "except UserError as e: print(e)"
    )
    output = run_on(4, "-c", code)
    assert "not divisible by the 4 devices" in output
    assert "--config.train.batch_size=8" in output
