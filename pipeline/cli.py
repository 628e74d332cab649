"""The verbs of `convene`; the only place that prints."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from pipeline.errors import ConveneError

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.record import Outcome

_STORAGE = "mlruns"


def _common(verb: Callable[..., None]) -> Callable[..., None]:
    """The options of every verb."""
    verb = click.option(
        "--storage",
        default=_STORAGE,
        show_default=True,
        metavar="FOLDER",
        help="Where everything is written and read.",
    )(verb)
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object, nothing else.")(verb)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="convene", message="%(prog)s %(version)s")
def convene() -> None:
    """From labelled images to the best ensemble of convolutional networks that a budget can buy."""


@convene.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the sweep.  [default: the file's, numbered where it is taken]")
@click.option("--data", help="Overrides data.source: a known name, or a path.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Overrides any value; repeatable.")
@click.option("--trials", type=int, help="Overrides search.trials.")
@click.option("--time-budget", help='Overrides search.time_budget: "300s", "30m", "2h".')
@click.option("--concurrency", type=int, help="Overrides search.concurrency: trials at a time.")
@click.option("--seed", type=int, help="Overrides search.seed.")
@click.option("--address", help="A running Ray cluster.  [default: RAY_ADDRESS, else one on this machine]")
@_common
def sweep(
    file: Path,
    name: str | None,
    data: str | None,
    sets: tuple[str, ...],
    trials: int | None,
    time_budget: str | None,
    concurrency: int | None,
    seed: int | None,
    address: str | None,
    storage: str,
    as_json: bool,
) -> None:
    """Search the space in FILE, then select, score and export the ensemble."""
    from pipeline import search_space, terminal, workflow

    options = {
        "data.source": data,
        "search.trials": trials,
        "search.time_budget": time_budget,
        "search.concurrency": concurrency,
        "search.seed": seed,
    }
    overrides = dict(map(search_space.parse_override, sets))
    overrides |= {name: value for name, value in options.items() if value is not None}
    search = search_space.read(file, overrides).base.search
    with terminal.LiveView(_console(stderr=True), search.objective, search.time_budget) as watch:
        outcome = workflow.run_sweep(
            file, name=name, storage=storage, overrides=overrides, address=address, watch=watch
        )
    _show_outcome(outcome, as_json)


@convene.command()
@click.argument("name")
@click.option("--address", help="A running Ray cluster.  [default: RAY_ADDRESS, else one on this machine]")
@_common
def resume(name: str, address: str | None, storage: str, as_json: bool) -> None:
    """Finish the sweep NAME after any interruption: the same trials, each from its last epoch."""
    from pipeline import terminal, workflow
    from pipeline.record import SweepRecord
    from pipeline.storage import Storage

    search = SweepRecord.open(Storage(storage), name).space.base.search
    with terminal.LiveView(_console(stderr=True), search.objective, search.time_budget) as watch:
        outcome, resumed = workflow.resume_sweep(name, storage=storage, address=address, watch=watch)
    if not resumed:
        click.echo(f"sweep {name} is finished; nothing was changed", err=True)
    _show_outcome(outcome, as_json)


@convene.command()
@click.argument("name")
@_common
def sync(name: str, storage: str, as_json: bool) -> None:
    """Write to MLflow what it lacks of the sweep NAME, and nothing twice."""
    from pipeline import workflow
    from pipeline.errors import WorkError

    waiting = workflow.sync_sweep(name, storage=storage)
    if waiting:
        raise WorkError(f"MLflow did not take {waiting} records of {name}; try again: convene sync {name}")
    if as_json:
        _print_json({"name": name, "waiting": 0})
    else:
        click.echo(f"MLflow has all of {name}")


@convene.command()
@click.argument("name")
@click.option("--size", type=int, help="Members, at most.  [default: the sweep's ensemble.size]")
@click.option("--rank-by", help="valid_loss or valid_accuracy.  [default: the sweep's ensemble.rank_by]")
@_common
def ensemble(name: str, size: int | None, rank_by: str | None, storage: str, as_json: bool) -> None:
    """Redo the final stage of the sweep NAME from its stored logits, without training."""
    from pipeline import workflow

    _show_outcome(workflow.rebuild_ensemble(name, storage=storage, size=size, rank_by=rank_by), as_json)


@convene.command()
@click.argument("name")
@click.argument("trial", type=int)
@_common
def replay(name: str, trial: int, storage: str, as_json: bool) -> None:
    """Run one trial of the sweep NAME again, outside Ray, and say whether its curve is the same."""
    from pipeline import workflow

    epochs, changed = workflow.replay_trial(name, trial, storage=storage)
    rows = []
    for row in epochs:
        rows.append(asdict(row) | {"same": row.same})
        if not as_json:
            then, again = row.recorded, row.replayed
            click.echo(
                f"epoch {then.epoch}: valid_loss {then.valid_loss:.6f} then, {again.valid_loss:.6f} now"
                f"{'' if row.same else '  differs'}"
            )
    same = all(row["same"] for row in rows)
    if as_json:
        _print_json({"name": name, "trial": trial, "same": same, "epochs": rows, "changed": changed})
    for package, (before, now) in changed.items():
        click.echo(f"{package} was {before} and is {now}", err=True)
    if not as_json:
        click.echo(
            f"trial {trial} of {name}: {'the same curve, to the last bit' if same else 'another curve'}"
        )
    if not same:
        sys.exit(1)


@convene.command()
@click.argument("name")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="A new or empty folder.")
@_common
def export(name: str, to: Path, storage: str, as_json: bool) -> None:
    """Copy the exported ensemble of the sweep NAME to a folder."""
    from pipeline import workflow

    folder = workflow.export_ensemble(name, to, storage=storage)
    if as_json:
        _print_json({"name": name, "export": str(folder)})
    else:
        click.echo(f"{folder}: model.onnx, model.pt2, manifest.json, README.md")


@convene.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), help="Write the table to a .csv or .parquet file.")
@_common
def predict(folder: Path, images: Path, to: Path | None, storage: str, as_json: bool) -> None:
    """Predict the labels of IMAGES (a file or a folder) with the exported ensemble in FOLDER."""
    from pipeline import prediction

    frames = prediction.predict(folder, images)
    if to:
        count = prediction.write_table(frames, to)
        if as_json:
            _print_json({"table": str(to), "images": count})
        else:
            click.echo(f"{to}: {count} images")
    elif as_json:
        rows = [row for frame in frames for row in frame.to_dict("records")]
        _print_json({"predictions": rows})
    else:
        for number, frame in enumerate(frames):
            frame.to_csv(sys.stdout, index=False, header=not number)


@convene.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@_common
def ui(host: str, port: int, storage: str, as_json: bool) -> None:
    """Browse what was recorded in MLflow's own pages."""
    from pipeline.server import Server
    from pipeline.storage import Storage

    server = Server(Storage(storage), host, port)
    if as_json:
        _print_json({"url": server.url, "tracking_uri": server.tracking_uri})
    else:
        click.echo(server.url + ("  (Ctrl-C ends it)" if server.serves else ""))
    server.serve()


@convene.command("list")
@_common
def list_(storage: str, as_json: bool) -> None:
    """List the sweeps under the storage root, with their states and scores."""
    from pipeline import listing, terminal

    listed = listing.list_sweeps(storage)
    if as_json:
        _print_json({"sweeps": [asdict(sweep) for sweep in listed]})
    elif listed:
        _console().print(terminal.sweeps(listed))
    else:
        click.echo(f"no sweeps under {storage}; begin one with: convene sweep search_spaces/digits.toml")


def _show_outcome(outcome: "Outcome", as_json: bool) -> None:
    if as_json:
        _print_json(asdict(outcome))
        return
    from pipeline import listing, terminal

    table, searched = listing.leaderboard(outcome)
    members = [member["trial"] for member in outcome.ensemble["members"]]
    console = _console()
    console.print(terminal.leaderboard(table, searched, members, console))
    console.print(terminal.scores(outcome))
    states = ", ".join(f"{count} {state}" for state, count in outcome.states.items())
    at = "" if outcome.storage == str(Path(_STORAGE).absolute()) else f" --storage {outcome.storage}"
    lines = [
        f"sweep {outcome.name}: {outcome.trials} trials ({states}) "
        f"in {terminal.duration(outcome.wall_seconds)}; * in the ensemble",
        f"test set read {outcome.test_reads} time{'s' if outcome.test_reads > 1 else ''}"
        + (": its scores are no longer those of a first look" if outcome.test_reads > 1 else ""),
        f"browse:   convene ui{at}",
        f"ensemble: {outcome.export}",
    ]
    if outcome.mlflow["waiting"]:
        lines.append(
            f"MLflow lacks {outcome.mlflow['waiting']} records; write them with: convene sync {outcome.name}"
        )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _print_json(content: Any) -> None:
    click.echo(json.dumps(content))


def _console(stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def main() -> None:
    """The command: 0 done, 1 the work failed, 2 what was asked is wrong, 130 interrupted."""
    signal.signal(signal.SIGINT, _interrupt)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    as_json = "--json" in sys.argv[1:]
    try:
        convene.main(standalone_mode=False)
    except click.UsageError as error:
        if not as_json:
            error.show()
        _fail(error.format_message() if as_json else None, error.exit_code, as_json)
    except ConveneError as error:
        _fail(str(error), error.exit_code, as_json)
    except (KeyboardInterrupt, click.Abort) as error:
        # Click takes every interrupt for its own, and keeps the one that says how to go on as the cause.
        _fail(str(error.__cause__ or error) or "interrupted", 130, as_json)


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
    if as_json:
        _print_json({"error": message, "exit_code": exit_code})
    elif message:
        click.echo(f"convene: {message}", err=True)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
