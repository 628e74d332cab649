"""The commands of `convene`, one per module. Only this package prints."""

import logging
import os
import signal
import sys
import traceback
from types import FrameType, TracebackType

import click

from convene.cli.ensemble import ensemble
from convene.cli.export import export
from convene.cli.groups import SectionedGroup
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


@click.group(cls=SectionedGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="convene", message="%(prog)s %(version)s")
def convene() -> None:
    """Turn labelled images into the best ensemble of convolutional networks that a compute budget can buy."""


convene.add_sections(
    {
        "Search": (preflight, sweep, resume),
        "Look": (list_, show, report, ui, replay, sync),
        "Use the ensemble": (ensemble, export, predict),
        "On a cluster": (submit, status, logs, stop),
    }
)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 the work failed, 2 a wrong request, 130 interrupted."""
    signal.signal(signal.SIGINT, _interrupt)
    sys.excepthook = _print_traceback
    handler = logging.StreamHandler()
    handler.setFormatter(_RedactingFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    as_json = "--json" in sys.argv[1:]
    try:
        convene.main(standalone_mode=False)
    except click.UsageError as error:
        if not as_json:
            error.show()
        _exit_with_error(error.format_message() if as_json else None, error.exit_code, as_json)
    except ConveneError as error:
        _exit_with_error(str(error), error.exit_code, as_json)
    except BrokenPipeError:  # the reader of a pipe has stopped: convene logs NAME | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still has to flush
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort) as error:
        # Click replaces an interrupt by its own; the cause has the message that says how to continue.
        _exit_with_error(str(error.__cause__ or error) or "interrupted", 130, as_json)


class _RedactingFormatter(logging.Formatter):
    """A formatter that removes secrets from the messages of libraries."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _print_traceback(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Print the traceback of an unexpected error, without secrets."""
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, where))))


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Stop cleanly at the first Ctrl-C, and at once at the second. Both can be resumed."""
    signal.signal(signal.SIGINT, _exit_now)
    raise KeyboardInterrupt


def _exit_now(number: int, frame: FrameType | None) -> None:
    """End the process without any cleanup."""
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # show the cursor, which the live view hides
        sys.stderr.flush()
    os._exit(130)


def _exit_with_error(message: str | None, exit_code: int, as_json: bool) -> None:
    """Print an error, as JSON if asked for, and exit."""
    message = message and redact(message)
    if as_json:
        print_json({"error": message, "exit_code": exit_code})
    elif message:
        click.echo(f"convene: {message}", err=True)
    sys.exit(exit_code)
