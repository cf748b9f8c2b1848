"""A job of many steps that keeps its state as training does, without a model to load."""

import argparse
import hashlib
import logging
import os
import time
from pathlib import Path

from recap.cli import make_parser, run_cli
from recap.io import read_json, write_json, write_text
from recap.train.signals import stop_requests

logger = logging.getLogger("work")


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(__doc__ or "", "work.py a --steps 10 --out a.txt")
    p.add_argument("name")
    p.add_argument("--steps", type=int, default=20)
    p.add_argument("--seconds", type=float, default=0.5, help="of a step")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--state", type=Path, help="where it is kept, if not beside the rest")
    p.add_argument("--megabytes", type=int, default=0, help="of memory to use")
    return p


def main(args: argparse.Namespace) -> None:
    """Do what is left to do, and write down that it was done."""
    names = ("SLURM_JOB_ID", "SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES")
    note(f"{args.name}.attempts", " ".join(os.environ.get(name, "-") for name in names))
    filled = bytearray(b"x") * (args.megabytes << 20)
    state = args.state or Path(f"{args.name}.state.json")
    done, chain = read_json(state) if state.exists() else (0, "")
    if done:
        logger.info("continuing after update %d from %s", done, state)
    with stop_requests() as stop:
        while done < args.steps:
            if stop.before_update():
                raise stop.interruption(f"after update {done} of {args.steps}")
            time.sleep(args.seconds)
            chain = hashlib.sha256(f"{chain}{done}".encode()).hexdigest()
            done += 1
            write_json(state, [done, chain])
            note(f"{args.name}.steps", str(done))
    write_text(args.out, chain + "\n")
    del filled


def note(path: str, line: str) -> None:
    """Append a line to a file that no rule declares."""
    with Path(path).open("a") as stream:
        stream.write(line + "\n")


if __name__ == "__main__":
    run_cli(main, parser())
