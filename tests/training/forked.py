"""Our commands in processes of their own that need not import TensorFlow and JAX: nine seconds less for each."""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from pathlib import Path

import jax

ROOT = Path(__file__).parents[2]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["uda_jax.training.loop"])  # imports, and starts no thread and no backend


class Forked:
    """`python -m module *args`, or `python -c code` with the module "-c", in the project's folder.

    As subprocess.Popen, with what it prints in one file.

    Args:
      x64: as JAX_ENABLE_X64, which JAX has read by then, like all of its own variables.
      variables: put into its environment, such as XLA_FLAGS.
    """

    def __init__(self, module: str, *args: str, x64: bool = False, **variables: str) -> None:
        self._output = tempfile.NamedTemporaryFile(suffix=".txt")  # noqa: SIM115 gone when this is
        self._process = SERVER.Process(
            target=_become, args=(module, args, x64, os.environ | variables, self._output.name), daemon=True
        )
        self._process.start()

    def poll(self) -> int | None:
        """The exit status, that of a signal negative; None while it runs."""
        return self._process.exitcode

    def ended(self, within: float = 300) -> int:
        """Waits for it; the exit status."""
        self._process.join(within)
        status = self.poll()
        assert status is not None, f"it still runs after {within} s:\n{self.printed()}"
        return status

    def send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self._process.pid or 0, number)

    def printed(self) -> str:
        return Path(self._output.name).read_text()


def run(module: str, *args: str) -> tuple[int, str]:
    """(exit status, what was printed) of a command."""
    command = Forked(module, *args)
    return command.ended(), command.printed()


def _become(module: str, args: tuple[str, ...], x64: bool, environment: dict[str, str], printed: str) -> None:
    output = os.open(printed, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    jax.config.update("jax_enable_x64", x64)
    sys.argv = [module, *args]
    if module == "-c":
        exec(compile(args[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
