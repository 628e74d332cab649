"""The command `convene predict`."""

import sys
from pathlib import Path

import click

from convene.cli.options import common_options
from convene.cli.printing import print_json


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--to", type=click.Path(path_type=Path), help="Write the table to this .csv or .parquet file.")
@common_options
def predict(folder: Path, images: Path, to: Path | None, storage: str, as_json: bool) -> None:
    """Predict the labels of images with an exported ensemble.

    FOLDER is an export, for example from `convene export`. IMAGES is a file or a folder. Print file, label
    and probability of each image as CSV.
    """
    from convene.export import inference

    frames = inference.predict(folder, images)
    if to:
        count = inference.write_table(frames, to)
        if as_json:
            print_json({"table": str(to), "images": count})
        else:
            click.echo(f"{to}: {count} images")
    elif as_json:
        rows = [row for frame in frames for row in frame.to_dict("records")]
        print_json({"predictions": rows})
    else:
        for number, frame in enumerate(frames):
            frame.to_csv(sys.stdout, index=False, header=not number)
