"""The one exception for mistakes that the user can mend."""


class UserError(Exception):
    """Bad input: the message names what was found, where, what was expected and the way out.

    Command-line programs print the message alone, without a traceback, and exit with status 2.
    """
