"""What `lorry` exits with: one number per kind of failure, so that a script need not read messages."""

from __future__ import annotations

import re
from enum import IntEnum


class ExitCode(IntEnum):
    """The documented exit codes."""

    OK = 0
    FAILURE = 1
    USAGE = 2  # from the command-line parser
    NOT_FOUND = 3
    INVALID = 4
    CONFLICT = 5
    UNAVAILABLE = 6
    DEADLINE = 7
    EXHAUSTED = 8
    PERMISSION = 9
    INTERRUPTED = 130  # from the command-line parser


MEANINGS = {
    ExitCode.OK: "done",
    ExitCode.FAILURE: "any other failure",
    ExitCode.USAGE: "wrong usage of the command line",
    ExitCode.NOT_FOUND: "what the command names does not exist",
    ExitCode.INVALID: "the input was refused: invalid argument, or out of range",
    ExitCode.CONFLICT: "a precondition failed, it exists already, or somebody else changed it first",
    ExitCode.UNAVAILABLE: "no server answers",
    ExitCode.DEADLINE: "the time was up",
    ExitCode.EXHAUSTED: "a queue, a budget or a disk is full",
    ExitCode.PERMISSION: "not permitted",
    ExitCode.INTERRUPTED: "interrupted",
}

EPILOG = "\b\nExit codes:\n" + "\n".join(
    f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items()
)

# By the name of the status code; every other one is a FAILURE.
_BY_STATUS = {
    "NOT_FOUND": ExitCode.NOT_FOUND,
    "INVALID_ARGUMENT": ExitCode.INVALID,
    "OUT_OF_RANGE": ExitCode.INVALID,
    "FAILED_PRECONDITION": ExitCode.CONFLICT,
    "ALREADY_EXISTS": ExitCode.CONFLICT,
    "ABORTED": ExitCode.CONFLICT,
    "UNAVAILABLE": ExitCode.UNAVAILABLE,
    "DEADLINE_EXCEEDED": ExitCode.DEADLINE,
    "RESOURCE_EXHAUSTED": ExitCode.EXHAUSTED,
    "PERMISSION_DENIED": ExitCode.PERMISSION,
    "UNAUTHENTICATED": ExitCode.PERMISSION,
}


def status_name(error: Exception) -> str:
    """The status code's name that an error stands for.

    The client's errors carry it. The other packages' errors are called after it (`NotFound`), so that their commands
    end with the same exit codes though the client imports none of them.
    """
    code = getattr(error, "code", None)
    if isinstance(code, str):
        return code
    for kind in type(error).__mro__:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).upper()
        if name in _BY_STATUS:
            return name
    return "UNKNOWN"


def exit_code(error: Exception) -> ExitCode:
    """The exit code that an error ends the command with."""
    return _BY_STATUS.get(status_name(error), ExitCode.FAILURE)
