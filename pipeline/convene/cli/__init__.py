"""The verbs of `convene`, one a file; the only place that prints."""

import logging
import os
import signal
import sys
import traceback
from types import FrameType, TracebackType

import click

from convene.cli.ensemble import ensemble
from convene.cli.export import export
from convene.cli.list import list_
from convene.cli.logs import logs
from convene.cli.predict import predict
from convene.cli.preflight import preflight
from convene.cli.printing import print_json
from convene.cli.replay import replay
from convene.cli.report import report
from convene.cli.resume import resume
from convene.cli.show import show
from convene.cli.status import status
from convene.cli.stop import stop
from convene.cli.submit import submit
from convene.cli.sweep import sweep
from convene.cli.sync import sync
from convene.cli.ui import ui
from convene.errors import ConveneError
from convene.redaction import redact


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="convene", message="%(prog)s %(version)s")
def convene() -> None:
    """From labelled images to the best ensemble of convolutional networks that a budget can buy."""


VERBS = (
    sweep,
    submit,
    status,
    logs,
    stop,
    resume,
    sync,
    ensemble,
    replay,
    preflight,
    show,
    report,
    export,
    predict,
    ui,
    list_,
)
for verb in VERBS:
    convene.add_command(verb)


def main() -> None:
    """The command: 0 done, 1 the work failed, 2 what was asked is wrong, 130 interrupted."""
    signal.signal(signal.SIGINT, _interrupt)
    sys.excepthook = _report
    handler = logging.StreamHandler()
    handler.setFormatter(_Discreet("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    as_json = "--json" in sys.argv[1:]
    try:
        convene.main(standalone_mode=False)
    except click.UsageError as error:
        if not as_json:
            error.show()
        _fail(error.format_message() if as_json else None, error.exit_code, as_json)
    except ConveneError as error:
        _fail(str(error), error.exit_code, as_json)
    except BrokenPipeError:  # whoever read the answer has read enough: convene logs NAME | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where Python writes what is left
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort) as error:
        # Click takes every interrupt for its own, and keeps the one that says how to go on as the cause.
        _fail(str(error.__cause__ or error) or "interrupted", 130, as_json)


class _Discreet(logging.Formatter):
    """Shows no secret that a library put into its message."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _report(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """What Python does with an error that nobody expected, but for secrets in it."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, where))))


def _interrupt(number: int, frame: FrameType | None) -> None:
    """The first Ctrl-C ends the work in good order, the second at once; both can be resumed from."""
    signal.signal(signal.SIGINT, _exit_now)
    raise KeyboardInterrupt


def _exit_now(number: int, frame: FrameType | None) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # the cursor, which the live view had hidden
        sys.stderr.flush()
    os._exit(130)


def _fail(message: str | None, exit_code: int, as_json: bool) -> None:
    message = message and redact(message)
    if as_json:
        print_json({"error": message, "exit_code": exit_code})
    elif message:
        click.echo(f"convene: {message}", err=True)
    sys.exit(exit_code)
