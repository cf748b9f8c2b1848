"""Compare the captions of two arms on the ids they share."""

import argparse

from recap.cli import make_parser, parse_settings, run_cli
from recap.settings import QualitySettings


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Compare two arms' captions, paired by id, with bootstrap intervals over records.",
        "compare_quality.py --arm new --records new/merged.jsonl --reference old "
        "--reference-records old/merged.jsonl --out differences.json "
        "--manifest differences.manifest.json --perf perf.json",
    )
    cli.add_argument("--arm", required=True, help="the arm that is judged")
    cli.add_argument("--records", required=True, help="its merged records")
    cli.add_argument("--similarity", nargs="*", default=[], help="its tables of similarities")
    cli.add_argument("--reference", required=True, help="the arm it is compared with")
    cli.add_argument("--reference-records", required=True, help="the reference's merged records")
    cli.add_argument(
        "--reference-similarity", nargs="*", default=[], help="the reference's similarities"
    )
    cli.add_argument("--settings", default="{}", help="QualitySettings as JSON or a path")
    cli.add_argument("--out", required=True, help="paired differences as JSON")
    cli.add_argument("--manifest", required=True, help="manifest to write")
    cli.add_argument("--perf", required=True, help="time and memory as JSON")
    return cli


def main(args: argparse.Namespace) -> None:
    """Compare."""
    from recap.quality.compare import ArmFiles, compare_quality

    compare_quality(
        ArmFiles(args.arm, args.records, args.similarity),
        ArmFiles(args.reference, args.reference_records, args.reference_similarity),
        settings=parse_settings(QualitySettings, args.settings),
        out=args.out,
        manifest=args.manifest,
        perf=args.perf,
    )


if __name__ == "__main__":
    run_cli(main, parser())
