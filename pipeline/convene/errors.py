"""The two ways in which a command ends badly, each with its exit code."""


def last_line(error: object) -> str:
    """The end of a long error text, which is what went wrong; the rest is where."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else repr(error)


class ConveneError(Exception):
    """A failure that a person can act on: its message is shown as it stands, without a traceback."""

    exit_code = 1


class InputError(ConveneError):
    """What was asked is wrong: names the field, the value and what is allowed. All is as it was."""

    exit_code = 2


class WorkError(ConveneError):
    """What was asked is right, but the work failed: says what went wrong and what remains."""

    exit_code = 1


class Interrupted(KeyboardInterrupt):
    """The sweep was interrupted; its message says how to go on."""
