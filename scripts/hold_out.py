"""Hold samples out of training: draw ids, write them in a caption style, or split data."""

import argparse

from recap.cli import make_parser, run_cli
from recap.curate.held_out import convert_held_out, draw_held_out, split_instructions


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Hold out samples that every run is asked, and no run is trained on.",
        "hold_out.py draw --records kept/*.jsonl --size 24 --seed 1024 --out ids.json",
    )
    commands = cli.add_subparsers(dest="command", required=True, help="what to do")
    draw = commands.add_parser("draw", help="draw ids from an arm's records")
    convert = commands.add_parser("convert", help="write drawn ids in one caption style")
    convert.add_argument("--ids", required=True, help="what `draw` wrote")
    convert.add_argument("--captions", nargs="*", default=[], help="shards of new captions")
    convert.add_argument("--original", help="LLaVA file that holds every id; else drawn by id")
    convert.add_argument("--image-root", required=True, help="folder of the images")
    split = commands.add_parser("split", help="split instruction data by picture")
    split.add_argument("--source", required=True, help="LLaVA JSON")
    split.add_argument("--train", required=True, help="what is left")
    for command in (draw, convert):
        command.add_argument("--records", required=True, nargs="+", help="shards of records")
    for command in (draw, split):
        command.add_argument("--size", required=True, type=int, help="how many")
        command.add_argument("--seed", required=True, type=int, help="of the draw")
    for command in (draw, convert, split):
        command.add_argument("--out", required=True, help="what is held out")
    return cli


def main(args: argparse.Namespace) -> None:
    """Do what the command says."""
    if args.command == "draw":
        draw_held_out(args.records, size=args.size, seed=args.seed, out=args.out)
    elif args.command == "convert":
        convert_held_out(
            args.ids,
            args.records,
            captions=args.captions,
            original=args.original,
            image_root=args.image_root,
            out=args.out,
        )
    else:
        split_instructions(
            args.source, size=args.size, seed=args.seed, train=args.train, held_out=args.out
        )


if __name__ == "__main__":
    run_cli(main, parser())
