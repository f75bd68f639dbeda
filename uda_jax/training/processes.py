"""Several processes, one run: how they meet, make sure that they run the same, and end together.

What one of them raises ends all with its message: it is put into the coordinator's key-value store, which a thread of
each of the others looks into, as their main threads may be inside a collective that waits for the one that failed. A
process that is killed says nothing; the collective's broken connection, or a heartbeat that is missed for
`HEARTBEAT_S`, ends the others then.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from uda_jax.errors import Stopped, UserError
from uda_jax.files import AnyPath

HEARTBEAT_S = 100
LOOK_S = 0.5  # between two looks for what another process said
MEET_MS = 10_000  # for which those that end wait for the others to have read the message
LAST_S = 3  # for which the coordinator stays after the others, who are aborted when they see it gone
FAILED = "uda_jax/failed"


def join(coordinator: str = "", count: int = 0, index: int = -1) -> None:
    """Meets the other processes of this run; without arguments TPU pods, Slurm, Open MPI and Kubernetes say who they
    are.

    Args:
      coordinator: "host:port" of process 0.
      count, index: how many processes there are, and which of them this is.
    Raises:
      UserError: only some of the arguments are given, or the others were not met.
    """
    if not (coordinator or count or index >= 0):
        given: dict[str, Any] = {}
    elif coordinator and count > index >= 0:
        given = {"coordinator_address": coordinator, "num_processes": count, "process_id": index}
    else:
        raise UserError(
            f"--coordinator={coordinator or None} --processes={count} --process={index}: expected all three, such as "
            "--coordinator=host0:1234 --processes=2 and in each process its own --process=0 or --process=1"
        )
    try:
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=HEARTBEAT_S)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the other processes of this run were not met: {error}. Where neither a TPU pod, Slurm, Open MPI nor "
            "Kubernetes says who they are, give --coordinator, --processes and --process; without --distributed a "
            "process runs alone."
        ) from error


def launched_together() -> bool:
    """Whether the environment says that this is one of several processes: of a Slurm step, or of a GKE job on TPUs."""
    slurm = os.environ.get("SLURM_STEP_NUM_TASKS", "1"), os.environ.get("SLURM_PROCID")
    return (slurm[0] != "1" and slurm[1] is not None) or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def gathered(text: str) -> list[str]:
    """What each process says, in their order; all must call it."""
    if jax.process_count() == 1:
        return [text]
    own = np.frombuffer(text.encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.int32(len(own))))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(own)] = own
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def agree(about: Mapping[str, Any]) -> None:
    """Makes sure that all processes have the same in mind, such as a flat config and the records they found.

    Raises:
      UserError: in all of them, where one differs from process 0; names what, and both values.
    """
    if jax.process_count() == 1:
        return
    said = [json.loads(text) for text in gathered(json.dumps(dict(about), default=str))]
    for process, theirs in enumerate(said):
        names = sorted(name for name in theirs.keys() | said[0].keys() if theirs.get(name) != said[0].get(name))
        if names:
            differing = "\n".join(f"  {n}: {said[0].get(n)!r} in process 0, {theirs.get(n)!r} there" for n in names[:8])
            raise UserError(
                f"process {process} is about to run something else than process 0:\n{differing}\n"
                "Start all of them with the same command, code and data."
            )


def check_shared(workdir: AnyPath) -> None:
    """Raises UserError, in all processes, where one of them does not see the workdir of process 0."""
    if jax.process_count() == 1:
        return
    mark = workdir / f".seen-{int(multihost_utils.broadcast_one_to_all(np.uint32(time.time_ns() % 2**32)))}"
    first = jax.process_index() == 0
    if first:
        mark.write_bytes(b"-")
    try:
        gathered("written")
        answers = gathered("yes" if mark.exists() else os.uname().nodename)
    finally:
        if first:
            mark.unlink(missing_ok=True)
    for process, answer in enumerate(answers):
        if answer != "yes":
            raise UserError(
                f"--workdir={workdir}: process {process}, on {answer}, does not see what process 0 wrote there; give a "
                "directory that all machines share, such as gs:// or a network disk"
            )


@contextmanager
def ending_together() -> Iterator[None]:
    """What is raised inside, in one process, is the end of all of them; does nothing in a run of one process.

    Raises:
      UserError: another one failed first.
    """
    if not jax.distributed.is_initialized():
        yield
        return
    client, me = ocp.multihost.get_jax_distributed_client(), jax.process_index()
    ending, done = threading.Lock(), threading.Event()

    def said() -> str:
        with suppress(Exception):  # it raises where there is nothing
            return str(client.key_value_try_get(FAILED))
        return ""

    def watch() -> None:
        while not done.wait(LOOK_S):
            if message := said():
                if ending.acquire(blocking=False):
                    _meet("read")
                    print(f"error: {message}", file=sys.stderr, flush=True)
                    leave_together()
                    os._exit(2)
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except Stopped:  # all of them are
        raise
    except BaseException as error:
        if not ending.acquire(blocking=False):
            threading.Event().wait()  # for the watch, which ends this process
        message = said()
        if not message:
            what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            with suppress(Exception):
                client.key_value_set(FAILED, f"process {me}: {what}")
        _meet("read")
        if message:
            raise UserError(message) from error
        raise
    finally:
        done.set()


def leave_together() -> None:
    """To be called in a run of several before a process that failed ends, when it has said why: `ending_together`."""
    _meet("said")
    if jax.process_index() == 0:
        time.sleep(LAST_S)


def _meet(name: str) -> None:
    with suppress(Exception):  # one may be gone
        ocp.multihost.get_jax_distributed_client().wait_at_barrier(f"{FAILED}/{name}", MEET_MS)
