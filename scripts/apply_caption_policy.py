"""Give an arm's records the text they train on: original or new caption."""

import argparse

from recap.cli import make_parser, run_cli
from recap.curate.policy import POLICIES, PolicyOptions, apply_policy


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    cli = make_parser(
        "Keep the original captions or replace them by the captioner's, all or some.",
        "apply_caption_policy.py --records kept.jsonl --captions captions.jsonl "
        "--captioner blip2 --policy replace --out text.jsonl",
    )
    cli.add_argument("--records", required=True, help="kept records")
    cli.add_argument("--captions", help="captions of exactly these records")
    cli.add_argument("--captioner", help="name of the captioner, becomes caption_source")
    cli.add_argument("--policy", required=True, choices=POLICIES, help="which caption wins")
    cli.add_argument("--similarity", help="table of score_similarity.py")
    cli.add_argument("--threshold", help="document of choose_similarity_threshold.py")
    cli.add_argument("--mix-share", type=float, help="share of new captions under `mix`")
    cli.add_argument("--seed", type=int, default=0, help="seed of `mix`")
    cli.add_argument(
        "--max-caption-words", type=int, default=0, help="cut longer new captions; 0 cuts none"
    )
    cli.add_argument("--out", required=True, help="records with caption_source")
    cli.add_argument("--decisions", help="what each record got and why, one line a record")
    return cli


def main(args: argparse.Namespace) -> None:
    """Apply the policy."""
    options = PolicyOptions(
        args.similarity, args.threshold, args.mix_share, args.seed, args.max_caption_words
    )
    apply_policy(
        args.records,
        policy=args.policy,
        out=args.out,
        captions=args.captions,
        captioner=args.captioner,
        decisions=args.decisions,
        options=options,
    )


if __name__ == "__main__":
    run_cli(main, parser())
