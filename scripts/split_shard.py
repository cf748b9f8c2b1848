"""Cut one contiguous shard out of a validated corpus."""

import argparse

from recap.cli import make_parser, run_cli
from recap.curate.split import split_shard


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(
        __doc__ or "",
        "split_shard.py --records validated.jsonl --offsets validated.index.json --index 0 "
        "--count 4 --shard-size 10000 --out 00000.jsonl",
    )
    p.add_argument("--records", required=True, help="validated records (JSONL)")
    p.add_argument("--offsets", required=True, help="their index, from validate_corpus.py")
    p.add_argument("--index", required=True, type=int, help="which shard, from 0")
    p.add_argument("--count", required=True, type=int, help="number of shards")
    p.add_argument("--shard-size", required=True, type=int, help="records a full shard")
    p.add_argument("--out", required=True, help="the shard's records (JSONL)")
    return p


def main(args: argparse.Namespace) -> None:
    """Write the records of one shard."""
    split_shard(
        args.records,
        index=args.offsets,
        shard=args.index,
        count=args.count,
        shard_size=args.shard_size,
        out=args.out,
    )


if __name__ == "__main__":
    run_cli(main, parser())
