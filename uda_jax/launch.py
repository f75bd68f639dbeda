"""The flags by which the processes of one run find each other, for the commands that train."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
from absl import flags

from uda_jax.errors import UserError

DISTRIBUTED = flags.DEFINE_bool(
    "distributed", None, "Join the other processes of a TPU pod or a Slurm step; by default if the environment says so."
)
COORDINATOR = flags.DEFINE_string("coordinator", "", "Elsewhere: host:port of process 0, the same in all processes.")
PROCESSES = flags.DEFINE_integer("processes", 0, "How many processes there are; with --coordinator.", lower_bound=0)
PROCESS = flags.DEFINE_integer("process", -1, "Which of them this is, from 0 on; with --coordinator.", lower_bound=-1)


@contextmanager
def launched() -> Iterator[None]:
    """Meets the other processes, if there are any; what one of them raises inside ends them all.

    Raises:
      UserError: as `processes.join`.
    """
    from uda_jax.training import processes  # here, so that --help need not wait for it

    named = bool(COORDINATOR.value or PROCESSES.value or PROCESS.value >= 0)
    if named or (processes.launched_together() if DISTRIBUTED.value is None else DISTRIBUTED.value):
        processes.join(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    elif jax.process_count() > 1:
        raise UserError("this process sees the devices of several; start each with --distributed")
    with processes.ending_together():
        yield
