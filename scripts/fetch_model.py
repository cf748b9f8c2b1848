"""Fetch a model from ModelScope at a pinned revision and write its manifest."""

import argparse

from recap.cli import make_parser, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(
        __doc__ or "",
        "fetch_model.py --model-id AI-ModelScope/blip2-opt-2.7b --revision master "
        "--out resources/models/blip2-opt-2.7b",
    )
    p.add_argument("--model-id", required=True, help="namespace/name on ModelScope")
    p.add_argument("--revision", required=True, help="branch, tag or commit")
    p.add_argument("--out", required=True, help="folder of the model's files")
    return p


def main(args: argparse.Namespace) -> None:
    """Fetch, then describe what was fetched."""
    from recap.fetch import fetch_model

    fetch_model(args.model_id, args.revision, args.out)


if __name__ == "__main__":
    run_cli(main, parser())
