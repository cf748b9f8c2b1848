"""Bring in a file that was placed below `data_root` by hand, or fetched."""

import argparse

from recap.cli import make_parser, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(
        __doc__ or "",
        "import_file.py --folder data --path mgm_pretrain_30k/stage_1.json "
        "--out resources/imported/mgm_pretrain_30k/stage_1.json "
        "--manifest resources/imported/mgm_pretrain_30k/stage_1.json.manifest.json "
        "--lock config/locks/data.tsv",
    )
    p.add_argument("--folder", required=True, help="folder of data placed by hand, or fetched")
    p.add_argument("--path", required=True, help="the file, relative to that folder")
    p.add_argument("--out", required=True, help="where the pipeline reads it")
    p.add_argument("--manifest", required=True, help="the manifest to write")
    p.add_argument("--lock", help="lock sheet to verify the file by; none if fetching did")
    return p


def main(args: argparse.Namespace) -> None:
    """Copy the file, or say where to place it."""
    from recap.fetch.files import import_file

    import_file(args.folder, args.path, args.out, args.manifest, args.lock)


if __name__ == "__main__":
    run_cli(main, parser())
