"""Cut one contiguous shard out of a validated corpus."""

import argparse
from itertools import islice

from recap.cli import make_parser, run_cli
from recap.io import iter_jsonl, write_jsonl
from recap.shards import fixed_bounds


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(
        __doc__ or "",
        "split_shard.py --records validated.jsonl --index 0 --count 4 --shard-size 10000 "
        "--out 00000.jsonl",
    )
    p.add_argument("--records", required=True, help="validated records (JSONL)")
    p.add_argument("--index", required=True, type=int, help="which shard, from 0")
    p.add_argument("--count", required=True, type=int, help="number of shards")
    p.add_argument("--shard-size", required=True, type=int, help="records a full shard")
    p.add_argument("--out", required=True, help="the shard's records (JSONL)")
    return p


def main(args: argparse.Namespace) -> None:
    """Write the records of one shard."""
    total = sum(1 for _ in iter_jsonl(args.records))
    start, stop = fixed_bounds(total, args.shard_size, args.count)[args.index]
    write_jsonl(args.out, islice(iter_jsonl(args.records), start, stop))


if __name__ == "__main__":
    run_cli(main, parser())
