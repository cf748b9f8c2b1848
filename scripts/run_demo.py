"""Run the demo, or the demo's models on a corpus of your own, and print the verdict."""

import argparse

from recap.cli import make_parser, run_cli


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(__doc__ or "", "run_demo.py --corpus records.jsonl --original llava.json")
    p.add_argument("--corpus", default="", help="Data-Juicer JSONL; the drawn world if empty")
    p.add_argument("--experiment", default="demo", help="which one; with --corpus, whose scale")
    p.add_argument("--original", default="", help="LLaVA JSON with each id's question")
    return p


def main(args: argparse.Namespace) -> None:
    """Run the experiment that the arguments describe."""
    from recap.launch import run_experiment
    from recap.own_corpus import own_corpus_experiment

    experiment = args.experiment
    if args.corpus:
        experiment = own_corpus_experiment(args.corpus, args.original, experiment)
    run_experiment(experiment)


if __name__ == "__main__":
    run_cli(main, parser())
