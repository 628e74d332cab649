"""Errors for users, each with an exit code."""


def last_line(error: object) -> str:
    """Return the last line of a long error message, which states the cause."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else repr(error)


class ConveneError(Exception):
    """An error that a user can act on. Its message is shown without a traceback."""

    exit_code = 1


class InputError(ConveneError):
    """Invalid input. The message names the field, its value and what is allowed; nothing has been changed."""

    exit_code = 2


class WorkError(ConveneError):
    """A failure despite valid input. The message states the cause and what remains to be done."""

    exit_code = 1


class Interrupted(KeyboardInterrupt):
    """The sweep was interrupted. The message has the command that resumes it."""
