"""Fetch a model or a data set from the first of its sources that has it, verified."""

import argparse
import os

from recap.cli import load_settings, make_parser, parse_settings, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(
        __doc__ or "",
        "fetch_files.py --lock config/locks/models.tsv --out resources/models/my-clip --request "
        '\'{"name": "my-clip", "kind": "model", "parts": [{"name": "my-clip", "sources": '
        '["modelscope:NAMESPACE/NAME@REVISION"]}]}\'',
    )
    p.add_argument("--request", required=True, help="what to fetch, as JSON or a file's path")
    p.add_argument(
        "--alternatives",
        default="{}",
        help="further sources, looked at last, as JSON: part to sources (default: none)",
    )
    p.add_argument("--lock", required=True, help="lock sheet: sizes and hashes of the files")
    p.add_argument("--out", required=True, help="folder of the files")
    p.add_argument("--data-root", default="data", help="folder of data placed by hand")
    p.add_argument(
        "--mirror",
        default=os.environ.get("RECAP_MIRROR"),
        help="folder with copies of remote sources, looked at first (default: $RECAP_MIRROR)",
    )
    p.add_argument(
        "--offline",
        action="store_true",
        default="1" in (os.environ.get("RECAP_OFFLINE"), os.environ.get("MODELSCOPE_OFFLINE")),
        help="never use the network (default: whether $RECAP_OFFLINE is 1)",
    )
    return p


def main(args: argparse.Namespace) -> None:
    """Fetch and verify, then describe what was fetched."""
    from pathlib import Path

    from recap.fetch.collect import FetchOptions
    from recap.fetch.item import fetch_item
    from recap.fetch.lock import read_lock
    from recap.fetch.request import FetchRequest

    options = FetchOptions(
        data_root=Path(args.data_root),
        lock=read_lock(args.lock),
        lock_sheet=args.lock,
        mirror=Path(args.mirror) if args.mirror else None,
        offline=args.offline,
    )
    request = parse_settings(FetchRequest, args.request, "--request")
    request = request.with_alternatives(load_settings(args.alternatives))
    fetch_item(request, args.out, options)


if __name__ == "__main__":
    run_cli(main, parser())
