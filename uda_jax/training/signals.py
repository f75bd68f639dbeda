"""Stopping on SIGTERM and Ctrl-C wherever a run is: between steps, while it compiles, while it evaluates."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import jax

from uda_jax.errors import Stopped
from uda_jax.training import malloc

CAUGHT = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turns SIGTERM and Ctrl-C into a flag; a second Ctrl-C ends the process at once (status 130).

    With several processes Orbax agrees on preemption instead, and the flag stays down.
    """
    if jax.process_count() > 1:
        yield lambda: False
        return
    flag = threading.Event()
    # Python's handlers wait for the main thread, which may be inside XLA for minutes; what is written to this socket
    # when a signal arrives is read by a thread of its own.
    here, there = socket.socketpair()
    there.setblocking(False)
    threading.Thread(target=_watch, args=(here, flag), daemon=True).start()
    previous = {number: signal.signal(number, lambda *_: flag.set()) for number in CAUGHT}
    previous_socket = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    try:
        yield flag.is_set
    finally:
        signal.set_wakeup_fd(previous_socket)
        for number, handler in previous.items():
            signal.signal(number, handler)
        there.close()


def _watch(arrivals: socket.socket, flag: threading.Event) -> None:
    interrupts = 0
    with arrivals:
        while number := arrivals.recv(1):
            if number[0] not in CAUGHT:
                continue
            interrupts += number[0] == signal.SIGINT
            if interrupts > 1:
                os._exit(128 + signal.SIGINT)
            if not flag.is_set() or interrupts == 1:
                print("stopping; a Ctrl-C (or another one) ends at once, without a checkpoint", file=sys.stderr)
            flag.set()


def stoppable(
    function: Any, stopped: Callable[[], bool], ready: Callable[[jax.stages.Compiled], None] = lambda compiled: None
) -> Callable[..., Any]:
    """A jitted function, compiled at its first call in another thread, so that a signal need not wait for XLA.

    The arguments' shapes, dtypes and placements must stay those of the first call.

    Args:
      ready: is told of the program before it is run.
    Raises:
      Stopped: by a call, if `stopped` before the program is compiled. Nothing was computed or donated then.
    """
    compiled: list[jax.stages.Compiled] = []

    def call(*arguments: Any) -> Any:
        if not compiled:
            compiled.append(_in_thread(function.lower(*arguments).compile, stopped))
            malloc.trim()
            ready(compiled[0])
        return compiled[0](*arguments)

    return call


def _in_thread(work: Callable[[], Any], stopped: Callable[[], bool]) -> Any:
    result: Future[Any] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:  # raised again where it is waited for
            result.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        if stopped():
            raise Stopped("stopped while compiling")
        thread.join(timeout=0.1)
    return result.result()
