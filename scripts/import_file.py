"""Bring in a file that has to be placed below `data_root` by hand."""

import argparse

from recap.cli import make_parser, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(
        __doc__ or "",
        "import_file.py --data-root data --path mgm_pretrain_30k/stage_1.json "
        "--out resources/imported/mgm_pretrain_30k/stage_1.json",
    )
    p.add_argument("--data-root", required=True, help="folder of data placed by hand")
    p.add_argument("--path", required=True, help="the file, relative to the data root")
    p.add_argument("--out", required=True, help="where the pipeline reads it")
    return p


def main(args: argparse.Namespace) -> None:
    """Copy the file, or say where to place it."""
    from recap.fetch import import_file

    import_file(args.data_root, args.path, args.out)


if __name__ == "__main__":
    run_cli(main, parser())
