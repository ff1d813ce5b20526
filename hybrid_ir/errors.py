"""Errors that are the user's to mend: one line that says what was found, where, and what to do."""

from __future__ import annotations

EXIT_USAGE = 2
"""Exit code of a command whose configuration, data or machine is at fault."""


class UserError(Exception):
    """A fault in the configuration, the data or the machine.

    The command line prints ``error: <message>`` on one line and exits with code 2, without a traceback. The message
    names what was found and where (a key, or a file and line), and what to do about it.
    """


class ConfigError(UserError):
    """A fault in the configuration; the message starts with the dotted key and its value."""


class DataError(UserError):
    """A fault in a data file; the message starts with ``file:line`` where there is one."""
