"""`convene ui`."""

import click

from convene.cli.options import common_options
from convene.cli.printing import print_json


@click.command()
@click.argument("name", required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--allowed-hosts",
    default="",
    metavar="NAMES",
    help="With --host: further names that browsers may call this machine, with commas between.",
)
@common_options
def ui(name: str | None, host: str, port: int, allowed_hosts: str, storage: str, as_json: bool) -> None:
    """Browse the sweep NAME, or all of them, in MLflow's own pages.

    Prints the address of the page, and serves it unless that is done already.
    """
    from convene.storage import Storage
    from convene.tracking.ui_server import Server

    others = [other for other in allowed_hosts.split(",") if other]
    server = Server(Storage(storage), host, port, others, name)
    if as_json:
        print_json({"url": server.url, "tracking_uri": server.tracking_uri})
    else:
        click.echo(server.url + ("  (Ctrl-C ends it)" if server.must_start else ""))
    server.serve()
