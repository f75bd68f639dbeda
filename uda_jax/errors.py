"""What ends a command-line program early, with a message and without a traceback."""

STOPPED = 75  # exit status, EX_TEMPFAIL of sysexits.h: not done, to be started again


class UserError(Exception):
    """Bad input: the message names what was found, where, what was expected and the way out.

    Command-line programs print the message alone and exit with status 2.
    """


class Stopped(Exception):
    """A signal or a preemption notice stopped a run before its end; the same call goes on where it stopped.

    Command-line programs print the message alone and exit with status `STOPPED`.
    """
