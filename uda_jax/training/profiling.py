"""Profiles: what the host and the devices do in some steps of a run, to be looked at in TensorBoard or XProf."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from etils import epath

from uda_jax.errors import UserError

NONE = range(0)


def parse_steps(text: str, last: int) -> range:
    """The steps of "10:15", 10 to 14 counted from 0; none for "".

    Raises:
      UserError: other text, or no steps of a run that ends at `last`.
    """
    if not text:
        return NONE
    match = re.fullmatch(r"(\d{1,12}):(\d{1,12})", text.strip(), re.ASCII)
    if not match or not int(match[1]) < int(match[2]) <= last:
        raise UserError(f"--profile={text}: expected FIRST:END, such as 10:15 for five steps, within 0:{last}")
    return range(int(match[1]), int(match[2]))


@contextmanager
def profiler(
    directory: epath.Path, steps: range, say: Callable[[str], None]
) -> Iterator[Callable[[int, jax.Array], None]]:
    """Traces `steps` into `directory`, in process 0 alone.

    Args:
      say: is told where the profile is, or that this process ran none of the steps.
    Yields:
      What is to be called before every step and after the last: (step, an array of the newest state) -> None.
    """
    wanted = NONE if jax.process_index() else steps
    tracing = done = False

    def stop() -> None:
        nonlocal tracing, done
        jax.profiler.stop_trace()
        tracing, done = False, True
        say(f"profile: {directory}")

    def at(step: int, newest: jax.Array) -> None:
        nonlocal tracing
        if tracing == (step in wanted):
            return
        newest.block_until_ready()  # the host is ahead: what was dispatched before belongs to the steps before
        if tracing:
            stop()
        else:
            jax.profiler.start_trace(str(directory))
            tracing = True

    try:
        yield at
    finally:
        if tracing:
            stop()
        if wanted and not done:
            say(f"no profile: none of the steps {wanted.start}:{wanted.stop} was run now")
