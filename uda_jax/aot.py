"""`python -m uda_jax.aot --config=configs/X.py --topology=v5e:4x4` compiles the training step for chips that need not
be there, and says whether it fits, what it costs and what the chips say to each other.

TPU topologies need the TPU's compiler, `pip install libtpu`, and no TPU; `--topology=here` takes this machine's
devices. Exit status: 0 it fits, 1 it does not, 2 cannot be compiled.
"""

import time

from absl import flags
from ml_collections import config_flags

from uda_jax import cli

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment: a file of configs/.", lock_config=True)
TOPOLOGY = flags.DEFINE_string("topology", "here", "Chips such as v5e:4x4 or v4:2x2x2, or here.")
TOP = flags.DEFINE_integer("top", 10, "How many of the dearest operations to list.", lower_bound=0)
flags.mark_flag_as_required("config")


def main() -> None:
    from uda_jax.config import check_config, check_x64
    from uda_jax.training import ahead
    from uda_jax.training.sharding import check_batch_size, make_mesh

    config = CONFIG.value
    check_config(config)
    check_x64(config.model)
    devices = ahead.devices_of(TOPOLOGY.value)
    mesh = make_mesh(devices, config.mesh.space)
    check_batch_size(config.train.batch_size, mesh.shape["data"] * config.train.accumulate, "train.batch_size")
    started = time.perf_counter()
    try:
        compiled = ahead.compile_step(config, mesh)
    except Exception as error:
        if not ahead.out_of_memory(error):
            ahead.check_options_known(error, config)
            raise
        print(f"{str(error)[:2000]}\n\ndoes not fit; {ahead.what_would_help(config)}")
        cli.leave(1)
    seconds = time.perf_counter() - started
    print(f"{config.method}, {len(devices)} x {devices[0].device_kind}, compiled in {seconds:.0f} s")
    found = ahead.forecast(compiled, config.train.accumulate)
    print(ahead.report(found, devices[0], TOP.value))
    if advice := ahead.too_large(found.memory, devices[0], config):
        print(advice)
        cli.leave(1)


def script() -> None:
    """`uda-aot`."""
    cli.run(main)


if __name__ == "__main__":
    script()
