"""A recipe run twice: by the pipeline's steps on shards, and by ``dj-process`` on one file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from recap.curate.duplicates import decide_duplicates, drop_duplicates
from recap.curate.hashes import hash_shard
from recap.curate.joining import join_steps
from recap.curate.mapping import map_shard
from recap.curate.measure import measure_shard
from recap.curate.recipe import measurements, name_of, params_of, resolve_recipe, steps, thresholds
from recap.curate.records import caption_of
from recap.curate.select import select_shard
from recap.curate.substitutes import language_model
from recap.curate.texts import TEXT_FLAG, sees_caption
from recap.io import iter_jsonl, write_jsonl
from recap.shards import shard_bounds, shard_names

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "config" / "recipes"


def run_recipe(folder: Path, rows: list[dict], image_root: Path, operators, shards: int = 3):
    """Run operators as the rules do; return kept ids, drops and summed counts."""
    names = shard_names(shards)
    for name, (start, stop) in zip(names, shard_bounds(len(rows), shards), strict=True):
        write_jsonl(folder / "in" / f"{name}.jsonl", rows[start:stop])
    source, chain = folder / "in", steps(operators)
    for step in chain:
        _run_step(source, folder / step.name, step, names, image_root)
        source = folder / step.name / "kept"
    for name in names:
        join_steps(
            source / f"{name}.jsonl",
            step_counts=[folder / step.name / "counts" / f"{name}.json" for step in chain],
            step_drops=[
                folder / step.name / "drops" / f"{name}.jsonl"
                for step in chain
                if step.kind != "mapper"
            ],
            kept=folder / "kept" / f"{name}.jsonl",
            drops=folder / "drops" / f"{name}.jsonl",
            counts=folder / "counts" / f"{name}.json",
        )
    kept, drops = (
        [row for name in names for row in iter_jsonl(folder / kind / f"{name}.jsonl")]
        for kind in ("kept", "drops")
    )
    return kept, drops


def _run_step(source: Path, out: Path, step, names: list[str], image_root: Path) -> None:
    for name in names:
        records = source / f"{name}.jsonl"
        files = {
            "drops": out / "drops" / f"{name}.jsonl",
            "counts": out / "counts" / f"{name}.json",
        }
        kept, perf, table = (out / "kept" / f"{name}.jsonl", out / "p", out / f"{name}.parquet")
        if step.kind == "filter":
            needed = measurements(step.operators)
            measure_shard(records, image_root=image_root, operators=needed, out=table, perf=perf)
            chosen = thresholds(step.operators)
            select_shard(records, stats=table, operators=chosen, kept=kept, **files)
        elif step.kind == "mapper":
            options = {"changes": out / "changes" / f"{name}.jsonl", "counts": files["counts"]}
            map_shard(
                records,
                image_root=image_root,
                operators=step.operators,
                out=kept,
                perf=perf,
                **options,
            )
        else:
            [operator] = step.operators
            hash_shard(records, image_root=image_root, operator=operator, out=table, perf=perf)
    if step.kind == "deduplicator":
        [operator] = step.operators
        tables = [out / f"{name}.parquet" for name in names]
        decide_duplicates(tables, operator=operator, out=out / "d.parquet", report=out / "d.json")
        for name in names:
            drop_duplicates(
                source / f"{name}.jsonl",
                duplicates=out / "d.parquet",
                operator=operator,
                kept=out / "kept" / f"{name}.jsonl",
                drops=out / "drops" / f"{name}.jsonl",
                counts=out / "counts" / f"{name}.json",
            )


def run_dj_process(folder: Path, rows: list[dict], image_root: Path, operators) -> list[dict]:
    """Return what the real ``dj-process`` exports for a list of operators.

    Where operators see the bare caption, it stands in a field of its own, and
    their ``text_key`` names it: Data-Juicer's own way to the same text.
    """
    folder.mkdir(parents=True)
    data = [
        {
            "id": row["id"],
            "text": row["text"],
            "caption": caption_of(row["text"]),
            "images": [str((image_root / image).resolve()) for image in row["images"]],
        }
        for row in rows
    ]
    write_jsonl(folder / "in.jsonl", data)
    process = [{name_of(operator): _as_theirs(operator)} for operator in operators]
    document = {
        "project_name": "parity",
        "dataset_path": str(folder / "in.jsonl"),
        "export_path": str(folder / "out" / "out.jsonl"),
        "np": 1,
        "text_keys": "text",
        "image_key": "images",
        "executor_type": "default",
        "open_monitor": False,
        "open_tracer": False,
        "skip_op_error": False,
        "use_cache": False,
        "process": process,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    command = [Path(sys.executable).parent / "dj-process", "--config", folder / "recipe.yaml"]
    result = subprocess.run(
        [*map(str, command)],
        env={**os.environ, **_offline(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return [json.loads(line) for line in (folder / "out" / "out.jsonl").open(encoding="utf-8")]


def without_captioner(recipe: Path, overrides=None):
    """Return a recipe's operators on a text that is given."""
    resolved = resolve_recipe(recipe, overrides)
    return resolved.before + resolved.after


def _as_theirs(operator) -> dict:
    params = {key: value for key, value in params_of(operator).items() if key != TEXT_FLAG}
    return {**params, "text_key": "caption"} if sees_caption(operator) else params


def _offline(folder: Path) -> dict[str, str]:
    """Return an environment in which dj-process finds what it would fetch, and fetches nothing."""
    models = folder / "models"
    models.mkdir()
    (models / "lid.176.bin").symlink_to(language_model())
    # imagededup itself needs torchvision; its hashes are checked against it elsewhere.
    package = folder / "python" / "imagededup"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "methods.py").write_text("from recap.curate.imagehash import *\n")
    paths = [str(folder / "python"), str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")]
    return {
        "UV_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "HF_HUB_OFFLINE": "1",
        "DATA_JUICER_EXTERNAL_MODELS_HOME": str(models),
        "DATA_JUICER_CACHE_HOME": str(folder / "cache"),
        "HF_DATASETS_CACHE": str(folder / "hf"),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
