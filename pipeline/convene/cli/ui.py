"""The command `convene ui`."""

import click

from convene.cli.completion import complete_names
from convene.cli.options import common_options
from convene.cli.printing import print_json


@click.command()
@click.argument("name", shell_complete=complete_names, required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=5000, show_default=True, type=click.IntRange(1, 65535), help="Port to listen on."
)
@click.option(
    "--allowed-hosts",
    default="",
    metavar="NAMES",
    help="Further names of this machine that browsers may use, separated by commas; with --host.",
)
@common_options
def ui(name: str | None, host: str, port: int, allowed_hosts: str, storage: str, as_json: bool) -> None:
    """Browse sweeps in MLflow's web interface.

    Print the address of the page of the sweep NAME, or of all sweeps on the newest sweep's data. Start
    MLflow's server unless it is running already.
    """
    from convene.storage import Storage
    from convene.tracking.ui_server import Server

    others = [other for other in allowed_hosts.split(",") if other]
    server = Server(Storage(storage), host, port, others, name)
    if as_json:
        print_json({"url": server.url, "tracking_uri": server.tracking_uri})
    else:
        click.echo(server.url + ("  (Ctrl-C to stop)" if server.must_start else ""))
    server.serve()
