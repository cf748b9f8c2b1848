"""Examine the nodes of a job: GPUs, memory, bfloat16, all-reduce, disks, models, packages."""

import argparse
import os
from pathlib import Path

from recap.cli import make_parser, run_cli
from recap.cluster.preflight import Demands, examine, require_sound
from recap.io import write_evidence


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = make_parser(__doc__ or "", "preflight.py --gpus 1 --memory-mb 32000 --out node.json")
    p.epilog = f"{p.epilog}\n  4  the node is bad: the message names it"
    p.add_argument("--gpus", type=int, required=True, help="on each node")
    p.add_argument("--gpu-memory-gib", type=float, default=22.0, help="free on each card")
    p.add_argument("--memory-mb", type=int, required=True, help="of the job on each node")
    p.add_argument("--write-mb-per-second", type=float, default=20.0, help="slowest writing")
    p.add_argument(
        "--folder",
        nargs=2,
        action="append",
        default=[],
        metavar=("PATH", "GIB"),
        help="to write to",
    )
    p.add_argument("--models", nargs="*", default=[], type=Path, help="manifests of models")
    p.add_argument("--environment", type=Path, default=Path("envs/vlm.yaml"), help="pins")
    p.add_argument("--out", type=Path, required=True, help="report to write")
    return p


def main(args: argparse.Namespace) -> None:
    """Examine this rank's node, and with the other ranks the links between them."""
    from recap.cluster.collective import gather_findings

    folders = {path: int(float(gib) * (1 << 30)) for path, gib in args.folder}
    demands = Demands(
        args.gpus, args.gpu_memory_gib, args.memory_mb, folders, args.write_mb_per_second
    )
    # Once a node is enough to hash models.
    models = args.models if os.environ.get("LOCAL_RANK", "0") == "0" else []
    found = gather_findings(examine(demands, models, args.environment), args.gpus)
    if os.environ.get("RANK", "0") == "0":
        report = {node: [vars(one) for one in rows] for node, rows in found.items()}
        passed = not any(one.fix for rows in found.values() for one in rows)
        write_evidence(args.out, {"passed": passed, "nodes": report}, passed=passed)
    require_sound(found)


if __name__ == "__main__":
    run_cli(main, parser())
