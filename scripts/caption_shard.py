"""Caption the images of a shard; images captioned before come from the store."""

import argparse

from recap.caption.shard import Machine, caption_shard
from recap.cli import add_device_option, make_parser, parse_settings, run_cli
from recap.settings import CaptionSettings


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Caption a shard with BLIP-2: batched, deterministic, never an image twice.",
        "caption_shard.py --records kept.jsonl --image-root corpus --model models/blip2 "
        '--captioner blip2 --store store --settings \'{"dtype": "float32"}\' '
        "--out captions.jsonl --perf perf.json",
    )
    cli.add_argument("--records", required=True, help="kept records")
    cli.add_argument("--image-root", required=True, help="folder image paths are relative to")
    cli.add_argument("--model", required=True, help="BLIP-2 or InstructBLIP folder")
    cli.add_argument("--captioner", required=True, help="the captioner's name")
    cli.add_argument("--store", required=True, help="caption store, shared by all shards")
    cli.add_argument("--settings", required=True, help="CaptionSettings as JSON or a path")
    cli.add_argument("--out", required=True, help="id and caption a record, in order")
    cli.add_argument("--perf", required=True, help="throughput, memory and store hits as JSON")
    add_device_option(cli)
    cli.add_argument("--workers", type=int, default=4, help="processes that decode for a GPU")
    return cli


def main(args: argparse.Namespace) -> None:
    """Caption."""
    caption_shard(
        args.records,
        image_root=args.image_root,
        model=args.model,
        captioner=args.captioner,
        store=args.store,
        settings=parse_settings(CaptionSettings, args.settings),
        out=args.out,
        perf=args.perf,
        machine=Machine(args.device, args.workers),
    )


if __name__ == "__main__":
    run_cli(main, parser())
