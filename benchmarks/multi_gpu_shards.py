"""Two caption shards and two evaluation shards side by side on two GPUs of a host.

    PYTHONPATH=scripts python benchmarks/multi_gpu_shards.py --folder /tmp/mgm --out shards.json

Each shard is the script of its rule behind ``scripts/lease_gpus.py``, at full size with random
weights. After a short one, a shard is run alone, then both at once; what is compared is items a
second once the model is loaded. The GPUs that the two were given are read from what they were
started with.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from caption_parts import build_captioner, draw_jpegs
from evaluate_parts import PROTOCOL, draw_questions, load, parts_of

from recap.mgm.checkpoint import save_checkpoint

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
KINDS = ("evaluate", "caption")
TELL = 'echo "$CUDA_VISIBLE_DEVICES" > "$0" && exec "$@"'


def main() -> None:
    """Run both kinds and write the figures."""
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("--folder", type=Path, required=True, help="for parts, pictures and shards")
    cli.add_argument("--out", type=Path, required=True, help="figures as JSON")
    cli.add_argument("--scale", choices=("full", "small"), default="full")
    cli.add_argument(
        "--kinds", nargs="+", choices=("evaluate", "caption"), default=["evaluate", "caption"]
    )
    cli.add_argument("--questions", type=int, default=10000, help="of both shards together")
    cli.add_argument("--images", type=int, default=12000, help="of both shards together")
    cli.add_argument("--prepare-only", action="store_true", help="write what the shards read")
    args = cli.parse_args()
    folder = args.folder.resolve()
    prepare = {"evaluate": prepare_evaluation, "caption": prepare_captions}
    rows = []
    for kind in args.kinds:
        warm_up, *commands = prepare[kind](folder, args)
        if args.prepare_only:
            continue
        run(folder, kind, [warm_up], "first")  # the model's files are read, kernels compiled
        alone = run(folder, kind, commands[:1], "alone")
        both = run(folder, kind, commands, "both")
        together = sum(row["items a second"] for row in both)
        rows.append({
            "kind": kind,
            "alone": alone,
            "both": both,
            "distinct GPUs": len({row["GPU"] for row in both}) == len(both),
            "times one": round(together / alone[0]["items a second"], 3),
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    if args.prepare_only:
        return
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    args.out.write_text(json.dumps({"devices": names, "rows": rows}, indent=1))


def prepare_evaluation(folder: Path, args: argparse.Namespace) -> list[list[str]]:
    """Write a checkpoint and questions; return the commands of a short shard and of two."""
    checkpoint = folder / "checkpoint"
    if not (checkpoint / "config.json").is_file():
        loaded = load(parts_of(folder, args.scale), "float16")
        save_checkpoint(loaded.model, loaded.tokenizer, checkpoint, dtype="float16")
        del loaded
        torch.cuda.empty_cache()
    instruction = "Answer the question using a single word or phrase."
    rows = [
        {
            "question_id": question.question_id,
            "image": question.image,
            "text": f"what is it?\nReference OCR token: {question.prompt}\n{instruction}",
        }
        for question in draw_questions(folder, args.questions)
    ]
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        [
            str(SCRIPTS / "predict_shard.py"), "--checkpoint", str(checkpoint),
            "--questions", str(path), "--image-root", str(folder / "questions"),
            "--protocol", PROTOCOL.model_dump_json(), "--num-chunks", str(shards),
            "--chunk-idx", str(index), "--model-id", "random",
            "--settings", '{"compile_blocks": false}',
            "--state-dir", "{out}/state", "--answers", "{out}/answers.jsonl",
            "--perf", "{out}/perf.json",
        ]
        for shards, index in ((20, 0), (2, 0), (2, 1))
    ]  # fmt: skip


def prepare_captions(folder: Path, args: argparse.Namespace) -> list[list[str]]:
    """Write a captioner and records; return the commands of a short shard and of two."""
    model = folder / "blip2"
    if not (model / "config.json").is_file():
        build_captioner(model)
        torch.cuda.empty_cache()
    paths = sorted((folder / "jpegs").glob("*.jpg"))
    if len(paths) != args.images:
        paths = draw_jpegs(folder / "jpegs", args.images)
    commands = []
    for index, some in enumerate((paths[::20], paths[::2], paths[1::2])):
        records = folder / f"records{index}.jsonl"
        rows = [
            {"id": path.stem, "images": [path.name], "text": "<__dj__image> a picture"}
            for path in some
        ]
        records.write_text("".join(json.dumps(row) + "\n" for row in rows))
        commands.append(
            [
                str(SCRIPTS / "caption_shard.py"), "--records", str(records),
                "--image-root", str(folder / "jpegs"), "--model", str(model),
                "--captioner", "random", "--store", "{out}/store",
                "--settings", json.dumps({"max_new_tokens": 12}),
                "--out", "{out}/captions.jsonl", "--perf", "{out}/perf.json",
                "--workers", str(max(1, (os.cpu_count() or 4) // 2 - 2)),
            ]
        )  # fmt: skip
    return commands


def run(folder: Path, kind: str, commands: list[list[str]], name: str) -> list[dict[str, Any]]:
    """Run shards side by side and return what each did on which GPU."""
    running = []
    paths = [str(SCRIPTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    for index, command in enumerate(commands):
        out = folder / "shards" / f"{kind}-{name}-{index}"
        subprocess.run(["rm", "-rf", str(out)], check=True)
        out.mkdir(parents=True)
        words = [sys.executable, *(word.replace("{out}", str(out)) for word in command)]
        lease = [sys.executable, str(SCRIPTS / "lease_gpus.py"), "1"]
        with (out / "log").open("wb") as log:
            process = subprocess.Popen(
                [*lease, "sh", "-c", TELL, str(out / "gpu"), *words],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                stdout=log,
                stderr=log,
            )
        running.append((out, process))
    rows = []
    for out, process in running:
        if process.wait():
            print((out / "log").read_text()[-3000:])
            raise SystemExit(f"{out} ended with {process.returncode}")
        perf = json.loads((out / "perf.json").read_text())
        seconds = perf.get("captioning_seconds") or perf["answering_seconds"]
        rows.append({
            "GPU": (out / "gpu").read_text().strip(),
            "items": perf["items"],
            "items a second": round(perf["items"] / seconds, 2),
            "whole job, s": perf["wall_seconds"],
            "reserved, MiB": perf.get("gpu_peak_reserved_mib"),
        })  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
