"""Write sizes and hashes of models or data sets into the lock sheets."""

import argparse

from recap.cli import make_parser, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(__doc__ or "", "lock_models.py blip2-opt-2.7b clip-vit-l-14-336 textvqa")
    p.add_argument("rows", nargs="+", help="rows of the models sheet, or folders of downloads.tsv")
    p.add_argument("--models", default="config/models.tsv", help="sheet of models")
    p.add_argument("--downloads", default="config/downloads.tsv", help="sheet of data sets")
    p.add_argument("--model-locks", default="config/locks/models.tsv", help="the models' locks")
    p.add_argument("--data-locks", default="config/locks/data.tsv", help="the data sets' locks")
    p.add_argument("--resources", default="resources", help="folder of what was fetched")
    return p


def main(args: argparse.Namespace) -> None:
    """Look the rows up, then lock the models and the data sets among them."""
    from recap.config.fetching import requests_for
    from recap.fetch.locking import lock_items

    models, data = requests_for(args.rows, args.models, args.downloads)
    if models:
        lock_items(models, f"{args.resources}/models", args.model_locks)
    if data:
        lock_items(data, f"{args.resources}/data", args.data_locks)


if __name__ == "__main__":
    run_cli(main, parser())
