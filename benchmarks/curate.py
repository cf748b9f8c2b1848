"""Measure curation against ``dj-process``, both with start-up, interleaved in one run.

    PYTHONPATH=scripts python benchmarks/curate.py --out curate.json

The operators are those of the recipes ``basic`` and ``blip2_30k`` that run on a CPU without
a model: nine, six of them distinct. Ours is what the pipeline runs: ``measure_shard.py``
and ``select_shard.py`` a shard, one shard a core, every process started anew.

Data-Juicer runs with monitor and tracer off and its data-set cache empty, in several
settings. All nine operators in one recipe are its fastest way, but not right: an operator
that comes twice keeps the statistics of its first parameters. The right result takes one
run a recipe; its kept ids have to equal ours, or the benchmark fails. Only records may
differ, and are counted, whose statistic equals a bound that ``dj-process`` cannot store: it
keeps statistics as JSON of ten decimals, from which 0.3 comes back as 0.30000000000000004.
Fusing operators needs the package ``av``, which this project does not: without it those
settings are listed as failed. ``pip install --target /tmp/av av`` gives it, with ``/tmp/av``
on PYTHONPATH.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from processes import ROOT, CommandError, Cost, markdown, run, together
from processes import corpus as build

from recap.curate.recipe import Operator, measurements, resolve_recipe, thresholds
from recap.curate.statistics import read_statistics
from recap.io import iter_jsonl, write_json, write_jsonl
from recap.shards import shard_bounds

RECIPES = ("basic", "blip2_30k")
WITHOUT = ("image_watermark_filter",)
# What Data-Juicer is tried with; the fastest counts. `batch_size` is an operator's own.
PEER_SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "operators fused": {"op_fusion": True, "fusion_strategy": "greedy"},
    "no cache": {"use_cache": False},
    "fused, no cache": {"op_fusion": True, "fusion_strategy": "greedy", "use_cache": False},
    "batches of 100": {"batch_size": 100},
    "batches of 5,000": {"batch_size": 5000},
}


def main() -> None:
    """Run everything ``--repeats`` times, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="figures as JSON")
    parser.add_argument("--count", type=int, default=10_000, help="records")
    parser.add_argument("--records", type=Path, help="JSONL to use instead of a drawn corpus")
    parser.add_argument("--pictures", type=int, default=2000, help="distinct pictures to draw")
    parser.add_argument("--cores", type=int, default=2, help="processes at a time, on each side")
    parser.add_argument("--repeats", type=int, default=3, help="the median counts")
    parser.add_argument("--settings", nargs="+", default=list(PEER_SETTINGS), help="of the peer")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = prepare(args, folder)
        figures = compare(args, corpus, folder)
    print(markdown(figures["rows"]))
    if args.out:
        write_json(args.out, figures)


def prepare(args: argparse.Namespace, folder: Path) -> Path:
    """Return the corpus to use, its images beside it or at absolute paths."""
    if args.records is None:
        return build(folder / "corpus", args.count, args.pictures)
    rows = list(islice(iter_jsonl(args.records), args.count))
    corpus = folder / "corpus" / "corpus.jsonl"
    corpus.parent.mkdir()
    for entry in args.records.resolve().parent.iterdir():
        (corpus.parent / entry.name).symlink_to(entry)
    write_jsonl(corpus, rows)
    return corpus


def operators_of(recipe: str) -> list[Operator]:
    """Return a recipe's operators without its captioner and models."""
    resolved = resolve_recipe(ROOT / "config" / "recipes" / f"{recipe}.yaml")
    entries = thresholds(resolved.before + resolved.after)
    return [entry for entry in entries if not entry.keys() & set(WITHOUT)]


def compare(args: argparse.Namespace, corpus: Path, folder: Path) -> dict[str, Any]:
    """Time every side in turn, ``--repeats`` times over; return all figures."""
    recipes = [operators_of(name) for name in RECIPES]
    both = [operator for recipe in recipes for operator in recipe]
    shards = cut(corpus, folder / "shards", args.cores)
    peer = partial(run_peer, corpus, folder=folder, cores=args.cores)
    sides = {"this pipeline": partial(run_ours, shards, both, folder)}
    for name in args.settings:
        sides[f"dj-process, one recipe, {name}"] = partial(peer, [both], PEER_SETTINGS[name])
    sides["dj-process, recipe by recipe"] = partial(peer, recipes, {})
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    kept: dict[str, list[str]] = {}
    failed: dict[str, str] = {}
    for _ in range(args.repeats):
        for name in [name for name in sides if name not in failed]:
            try:
                cost, kept[name] = sides[name]()
            except CommandError as error:
                if "one recipe, " not in name:
                    raise
                failed[name] = str(error).strip().splitlines()[-1]
                print(f"{name} failed: {failed[name]}", flush=True)
                continue
            costs[name].append(cost)
            print(f"{name}: {cost.wall:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    ours, theirs = kept["this pipeline"], kept["dj-process, recipe by recipe"]
    on_bound = sorted(set(ours) ^ set(theirs))
    if ours_alone := set(on_bound) - ids_on_a_bound(shards, both, folder):
        raise SystemExit(f"kept by one side alone, without reason: {sorted(ours_alone)[:10]}")
    counts = {name: len(ids) for name, ids in kept.items()}
    return summarise(args, {name: costs[name] for name in kept}, counts, both) | {
        "failed": failed,
        "kept_ids_that_differ": on_bound,
    }


def summarise(
    args: argparse.Namespace,
    costs: dict[str, list[Cost]],
    kept: dict[str, int],
    operators: list[Operator],
) -> dict[str, Any]:
    """Return medians as rows, ratios to ours, and what they hold for."""
    wall = {name: statistics.median(cost.wall for cost in runs) for name, runs in costs.items()}
    ours = wall["this pipeline"]
    rows = [
        {
            "what": name,
            "wall, s": wall[name],
            "CPU, s": statistics.median(cost.cpu for cost in runs),
            "records/s": args.count / wall[name],
            "times ours": wall[name] / ours,
            "largest process, MiB": max(cost.rss_mib for cost in runs),
            "kept": kept[name],
        }
        for name, runs in costs.items()
    ]
    peers = [row for row in rows if "one recipe" in str(row["what"])]
    return {
        "records": args.count,
        "corpus": str(args.records or "drawn"),
        "cores": args.cores,
        "repeats": args.repeats,
        "versions": {name: version(name) for name in ("py-data-juicer", "pillow", "pyarrow")},
        "python": sys.version.split()[0],
        "load_average": os.getloadavg(),
        "operators": [next(iter(operator)) for operator in operators],
        "times_faster_than_best_peer": min(float(row["times ours"]) for row in peers),
        "rows": rows,
        "walls": {name: [cost.wall for cost in runs] for name, runs in costs.items()},
    }


def ids_on_a_bound(shards: list[Path], operators: list[Operator], folder: Path) -> set[str]:
    """Return the ids with a statistic that equals a bound and does not survive the storing."""
    from pandas.io.json import ujson_dumps, ujson_loads

    found: set[str] = set()
    for shard in shards:
        table = read_statistics(folder / "ours" / f"{shard.stem}.parquet")
        for operator in operators:
            bounds = set(filter(is_number, next(iter(operator.values())).values()))
            for column in table.columns_of(operator).values():
                for name, value in zip(table.ids, table.columns[column], strict=True):
                    on_bound = is_number(value) and value in bounds
                    if on_bound and ujson_loads(ujson_dumps(value)) != value:
                        found.add(name)
    return found


def is_number(value: object) -> bool:
    """Tell numbers from flags, names and lists."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def cut(corpus: Path, folder: Path, count: int) -> list[Path]:
    """Write the shards that the pipeline's split gives, one a core."""
    rows = list(iter_jsonl(corpus))
    paths = []
    for index, (start, stop) in enumerate(shard_bounds(len(rows), count)):
        paths.append(folder / f"{index:05d}.jsonl")
        write_jsonl(paths[-1], rows[start:stop])
    return paths


def run_ours(shards: list[Path], operators: list[Operator], folder: Path) -> tuple[Cost, list[str]]:
    """Measure and select all shards at once; return cost and kept ids."""
    root, work = folder / "corpus", folder / "ours"
    shutil.rmtree(work, ignore_errors=True)
    started = time.perf_counter()
    with ThreadPoolExecutor(len(shards)) as pool:
        pairs = list(pool.map(partial(run_shard, operators, root, work), shards))
    cost = together([cost for pair in pairs for cost in pair], time.perf_counter() - started)
    kept = [row["id"] for shard in shards for row in iter_jsonl(work / f"kept-{shard.name}")]
    return cost, kept


def run_shard(operators: list[Operator], root: Path, work: Path, shard: Path) -> list[Cost]:
    """Run the two scripts of a shard."""
    stats = work / f"{shard.stem}.parquet"
    measure = [
        *(sys.executable, "scripts/measure_shard.py", "--records", str(shard)),
        *("--image-root", str(root), "--operators", json.dumps(measurements(operators))),
        *("--out", str(stats), "--perf", str(work / f"{shard.stem}.perf.json")),
    ]
    select = [
        *(sys.executable, "scripts/select_shard.py", "--records", str(shard)),
        *("--stats", str(stats), "--operators", json.dumps(operators)),
        *("--out", str(work / f"kept-{shard.name}"), "--drops", str(work / f"d-{shard.name}")),
        *("--counts", str(work / f"{shard.stem}.counts.json")),
    ]
    return [run(command, work / f"{shard.stem}.log") for command in (measure, select)]


def run_peer(
    corpus: Path,
    recipes: list[list[Operator]],
    settings: dict[str, Any],
    *,
    folder: Path,
    cores: int,
) -> tuple[Cost, list[str]]:
    """Run ``dj-process`` once a recipe, each on what the one before it kept."""
    work = folder / "peer"
    shutil.rmtree(work, ignore_errors=True)
    settings = dict(settings)
    batch = {"batch_size": settings.pop("batch_size")} if "batch_size" in settings else {}
    # Nothing may be fetched, and nothing may be left from a run before.
    environment = {"UV_OFFLINE": "1", "PIP_NO_INDEX": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_DATASETS_CACHE": str(work / "cache"), "DATA_JUICER_CACHE_HOME": str(work)}
    source, costs = corpus, []
    for index, operators in enumerate(recipes):
        export = work / f"{index}" / "kept.jsonl"
        document = {
            "project_name": "benchmark",
            "dataset_path": str(source),
            "export_path": str(export),
            "np": cores,
            "text_keys": "text",
            "image_key": "images",
            "open_monitor": False,
            "open_tracer": False,
            **settings,
            "process": [{n: {**p, **batch} for n, p in entry.items()} for entry in operators],
        }
        config = work / f"{index}.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(yaml.safe_dump(document), encoding="utf-8")
        program = str(Path(sys.executable).with_name("dj-process"))
        costs.append(run([program, "--config", str(config)], work / f"{index}.log", environment))
        source = export
    kept = [str(row["id"]) for row in iter_jsonl(source)]
    return together(costs, sum(cost.wall for cost in costs)), kept


if __name__ == "__main__":
    main()
