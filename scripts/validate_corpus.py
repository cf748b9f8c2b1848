"""Split a raw Data-Juicer JSONL into good records and explained rejects."""

import argparse

from recap.cli import make_parser, parse_settings, run_cli
from recap.curate.validate import validate_corpus
from recap.settings import ValidateSettings


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Check every line and every image of a corpus; never stops at a bad line.",
        "validate_corpus.py --corpus raw.jsonl --expected-records 1000 --settings '{}' "
        "--threads 2 --out validated.jsonl --rejects rejects.jsonl --report validate.json",
    )
    cli.add_argument("--corpus", required=True, help="raw JSONL")
    cli.add_argument("--image-root", help="folder of the images; by default the corpus's own")
    cli.add_argument("--expected-records", required=True, type=int, help="non-blank lines declared")
    cli.add_argument("--settings", required=True, help="ValidateSettings as JSON or a path")
    cli.add_argument("--threads", type=int, default=1, help="processes that decode images")
    cli.add_argument("--out", required=True, help="good records")
    cli.add_argument("--rejects", required=True, help="line, id, reason, detail, fix a bad line")
    cli.add_argument("--report", required=True, help="counts as JSON")
    cli.add_argument("--index", help="where records start in --out, for split_shard.py")
    return cli


def main(args: argparse.Namespace) -> None:
    """Validate."""
    validate_corpus(
        args.corpus,
        image_root=args.image_root,
        expected_records=args.expected_records,
        settings=parse_settings(ValidateSettings, args.settings),
        threads=args.threads,
        out=args.out,
        rejects=args.rejects,
        report=args.report,
        index=args.index,
    )


if __name__ == "__main__":
    run_cli(main, parser())
