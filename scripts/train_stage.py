"""Train one stage of an MGM model: pretrain (alignment) or finetune (LoRA)."""

import argparse
from pathlib import Path

from recap.cli import load_settings, make_parser, run_cli
from recap.mgm.options import add_parts_options, parts_from_args
from recap.startup import TRANSFORMERS, load_libraries
from recap.train.allocator import use_growing_segments
from recap.train.trackers import TRACKERS
from recap.train_settings import FREE_SETTINGS


def named_path(text: str) -> tuple[str, Path]:
    """Return the parts of ``NAME=PATH``."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"expected NAME=PATH, found {text!r}")
    return name, Path(path)


def free_values(text: str) -> dict[str, str]:
    """Return what ``NAME=VALUE,NAME=VALUE`` says of settings that change no update."""
    values = dict(item.partition("=")[::2] for item in text.split(","))
    if not values.keys() <= FREE_SETTINGS:
        known = ", ".join(sorted(FREE_SETTINGS))
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE of {known}, found {text!r}")
    return values


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    cli = make_parser(
        "Train one stage of an MGM model, resumably, with evidence gates.",
        "train_stage.py --stage pretrain --data train.json --image-root images "
        "--language-model models/gemma --clip models/clip --convnext models/convnext "
        "--settings pretrain.json --seed 1 --state-dir state/1 --out-dir runs/1/pretrain "
        "--perf perf/pretrain.json",
    )
    cli.epilog = (
        f"{cli.epilog}\n  75 stopped by SIGTERM, SIGUSR1 or the end of its time, its state saved;\n"
        "     the same command continues the run"
    )
    cli.add_argument("--stage", required=True, choices=("pretrain", "finetune"), help="1 or 2")
    cli.add_argument("--data", required=True, type=Path, help="LLaVA JSON")
    cli.add_argument("--image-root", required=True, type=Path, help="folder of the images")
    add_parts_options(cli)
    cli.add_argument("--projector", type=Path, help="stage 1's result; finetune needs it")
    cli.add_argument("--projector-manifest", type=Path, help="by default beside the projector")
    cli.add_argument("--settings", required=True, help="JSON text, or a JSON or YAML file")
    cli.add_argument(
        "--free-settings",
        type=free_values,
        default={},
        metavar="NAME=VALUE,...",
        help="those that change no update, such as memory_gib=22; they win over settings",
    )
    cli.add_argument("--seed", required=True, type=int, help="of initialisation, order, dropout")
    cli.add_argument("--state-dir", required=True, type=Path, help="resumable state")
    cli.add_argument("--finished-state", type=Path, help="of stage 1, to be removed")
    cli.add_argument("--out-dir", required=True, type=Path, help="weights, telemetry, manifest")
    cli.add_argument(
        "--held-out", nargs="+", type=named_path, default=[], metavar="NAME=JSON", help="asked only"
    )
    cli.add_argument("--held-out-every", type=int, default=0, help="updates; 0: at the end only")
    cli.add_argument("--log-dir", type=Path, help="where the tracker writes; none without it")
    cli.add_argument(
        "--time-limit-minutes",
        type=float,
        metavar="MINUTES",
        help="from the start of the process: by then the run has saved its state and left (exit "
        "code 75). SLURM_JOB_END_TIME, which SLURM sets, does the same; the earlier wins",
    )
    cli.add_argument("--tracker", choices=TRACKERS, default="tensorboard", help="of curves")
    cli.add_argument("--probe-cache", type=Path, help="folder of what fits into which GPU")
    cli.add_argument("--perf", required=True, type=Path, help="times and memory, as JSON")
    return cli


def main(args: argparse.Namespace) -> None:
    """Turn the arguments into a request and run it."""
    use_growing_segments()
    values = load_settings(args.settings)
    load_libraries(*TRANSFORMERS, "transformers.trainer", "accelerate")
    from recap.train.request import StageRequest, parse_settings
    from recap.train.stage import run_stage

    arguments = vars(args)
    values |= arguments.pop("free_settings")
    parts = parts_from_args(args)
    for name in vars(parts):
        del arguments[name]
    arguments["held_out"] = tuple(arguments["held_out"])
    arguments["settings"] = parse_settings(args.stage, values)
    run_stage(StageRequest(parts=parts, **arguments))


if __name__ == "__main__":
    run_cli(main, parser())
