r"""Measure how the curation half grows with the corpus: time, memory, jobs, DAG.

    PYTHONPATH=scripts python benchmarks/scaling.py --folder /tmp/scaling --out scaling.json
    PYTHONPATH=scripts python benchmarks/scaling.py --folder /tmp/scaling --out scaling.json \
        --sizes 1000 10000 100000 1000000 --dag-shards 10 100 1000 10000

Each step is run by its own script, as the rules do, with one process a shard and
``--cores`` of them at a time. Pictures are drawn once and hard-linked under each record's
name: a million records take about 2 GB. What one size left is taken away before the next.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from curate import operators_of
from processes import ROOT, Cost, markdown, run, together
from processes import corpus as build

from recap.curate.recipe import measurements
from recap.io import write_json
from recap.shards import shard_count, shard_names

OPERATORS = operators_of("basic") + operators_of("blip2_30k")
STEPS = ("validate", "split", "measure", "select", "merge", "convert")
ARM_HEAD = "arm\tcorpus\tpre_recipe\tcaption_policy\tpost_recipe\tdescription"


def main() -> None:
    """Measure what is asked for, print the tables, write the figures after each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="scratch folder")
    parser.add_argument("--out", type=Path, required=True, help="figures as JSON")
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 10_000], help="records")
    parser.add_argument("--shard-size", type=int, default=10_000, help="records a shard")
    parser.add_argument("--dag-shards", type=int, nargs="*", default=[10, 100, 1000], help="DAGs")
    parser.add_argument("--pictures", type=int, default=500, help="distinct pictures to draw")
    parser.add_argument("--cores", type=int, default=2, help="processes at a time")
    args = parser.parse_args()
    figures: dict[str, Any] = {"cores": args.cores, "shard_size": args.shard_size, "load": []}
    figures |= {"sizes": [], "steps": [], "dag": []}
    for size in args.sizes:
        add_size(figures, size, args)
        write_json(args.out, figures)
    for shards in args.dag_shards:
        figures["dag"].append(dry_run(args.folder / "dag", shards))
        write_json(args.out, figures)
    if args.dag_shards:
        figures["overhead"] = overhead(args)
        write_json(args.out, figures)
    for name in ("sizes", "steps", "dag"):
        if figures[name]:
            print(f"\n{markdown(figures[name])}")
    print(json.dumps(figures.get("overhead"), indent=2))


def add_size(figures: dict[str, Any], size: int, args: argparse.Namespace) -> None:
    """Run every step on a corpus of ``size`` records and add its rows."""
    corpus = build(args.folder / "corpus", size, args.pictures)
    work = args.folder / "work"
    shutil.rmtree(work, ignore_errors=True)
    costs = Curation(corpus, size, args.shard_size, args.cores, work).run()
    shards = shard_count(size, args.shard_size)
    whole = together(costs.values(), sum(cost.wall for cost in costs.values()))
    figures["sizes"].append(
        {
            "records": size,
            "shards": shards,
            "jobs": 3 * shards + 3,
            "wall, s": whole.wall,
            "CPU, s": whole.cpu,
            "CPU ms a record": 1000 * whole.cpu / size,
            "largest process, MiB": whole.rss_mib,
        }
    )
    for step, cost in costs.items():
        figures["steps"].append(
            {
                "step": step,
                "records": size,
                "wall, s": cost.wall,
                "CPU, s": cost.cpu,
                "CPU ms a record": 1000 * cost.cpu / size,
                "largest process, MiB": cost.rss_mib,
            }
        )
        print(figures["steps"][-1], flush=True)
    figures["load"].append(os.getloadavg()[0])
    shutil.rmtree(work)


class Curation:
    """The scripts of the curation half on one corpus."""

    def __init__(self, corpus: Path, records: int, size: int, cores: int, work: Path) -> None:
        """Note what is curated, how it is cut, and where the results go."""
        self._corpus, self._records, self._size = corpus, records, size
        self._cores, self._work = cores, work
        self._root = str(corpus.parent)
        self._names = shard_names(shard_count(records, size))

    def run(self) -> dict[str, Cost]:
        """Run the steps in order; return the cost of each."""
        return {step: self._step(step) for step in STEPS}

    def _step(self, step: str) -> Cost:
        whole = {"validate": self._validate, "merge": self._merge, "convert": self._convert}
        started = time.perf_counter()
        if step in whole:
            costs: Iterable[Cost] = [self._command(step, step, whole[step]())]
        else:
            each = {"split": self._split, "measure": self._measure, "select": self._select}[step]
            with ThreadPoolExecutor(self._cores) as pool:
                costs = list(pool.map(lambda n: self._command(step, n, each(n)), self._names))
        return together(costs, time.perf_counter() - started)

    def _command(self, step: str, name: str, command: list[str]) -> Cost:
        script = f"scripts/{command[0]}.py"
        log = self._work / "logs" / step / f"{name}.log"
        return run([sys.executable, script, *command[1:]], log)

    def _path(self, name: str) -> str:
        return str(self._work / name)

    def _validate(self) -> list[str]:
        return [
            *("validate_corpus", "--corpus", str(self._corpus)),
            *("--expected-records", str(self._records), "--settings", "{}"),
            *("--threads", str(self._cores), "--out", self._path("validated.jsonl")),
            *("--rejects", self._path("rejects.jsonl"), "--report", self._path("validate.json")),
            *("--index", self._path("validated.index.json")),
        ]

    def _split(self, name: str) -> list[str]:
        return [
            *("split_shard", "--records", self._path("validated.jsonl")),
            *("--offsets", self._path("validated.index.json"), "--index", str(int(name))),
            *("--count", str(len(self._names)), "--shard-size", str(self._size)),
            *("--out", self._path(f"shards/{name}.jsonl")),
        ]

    def _measure(self, name: str) -> list[str]:
        return [
            *("measure_shard", "--records", self._path(f"shards/{name}.jsonl")),
            *("--image-root", self._root, "--operators", json.dumps(measurements(OPERATORS))),
            *("--out", self._path(f"stats/{name}.parquet")),
            *("--perf", self._path(f"perf/{name}.json")),
        ]

    def _select(self, name: str) -> list[str]:
        return [
            *("select_shard", "--records", self._path(f"shards/{name}.jsonl")),
            *("--stats", self._path(f"stats/{name}.parquet")),
            *("--operators", json.dumps(OPERATORS), "--out", self._path(f"kept/{name}.jsonl")),
            *("--drops", self._path(f"drops/{name}.jsonl")),
            *("--counts", self._path(f"counts/{name}.json")),
        ]

    def _merge(self) -> list[str]:
        every = f"{{{self._names[0]}..{self._names[-1]}}}"
        return [
            *("merge_arm", "--arm", "all", "--shards", self._path(f"kept/{every}.jsonl")),
            *("--validate-report", self._path("validate.json")),
            *("--pre-counts", self._path(f"counts/{every}.json")),
            *("--out", self._path("merged.jsonl"), "--funnel", self._path("funnel.json")),
            *("--manifest", self._path("merged.manifest.json")),
        ]

    def _convert(self) -> list[str]:
        return [
            *("convert_llava", "--records", self._path("merged.jsonl")),
            *("--image-root", self._root, "--out", self._path("train.json")),
            *("--manifest", self._path("train.manifest.json")),
        ]


def prepare_workflow(folder: Path, records: int, corpus: Path | None = None) -> list[str]:
    """Lay out a copy of the workflow with one arm, and return Snakemake's command.

    The arm keeps the original captions, filtered before and after by ``basic``.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("Snakefile", "rules", "scripts", "envs"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "config", folder / "config")
    arm = "curated\tscaling\tbasic\tkeep\tbasic\tnothing but curation"
    again = "again\tscaling\tbasic\tkeep\tbasic\tthe same"
    (folder / "config" / "scaling.tsv").write_text(f"{ARM_HEAD}\n{arm}\n{again}\n")
    row = {"source": "local", "root": str(corpus.parent if corpus else folder), "original": ""}
    row |= {"jsonl": corpus.name if corpus else "corpus.jsonl", "licence": "none"}
    if corpus is None:
        (folder / "corpus.jsonl").touch()
    experiment = {
        "extends": "demo",
        "sheets": {"arms": "config/scaling.tsv"},
        "corpora": {"scaling": row | {"records": records}},
        "corpus": "scaling",
        "arms": ["curated", "again"],
        "reference_arm": "curated",
        "funnel_arms": [],
        "curate": {"shard_size": 100},
    }
    (folder / "config" / "experiments" / "scaling.yaml").write_text(yaml.safe_dump(experiment))
    return [
        *(sys.executable, "-m", "snakemake", "--directory", str(folder)),
        *("--snakefile", str(folder / "Snakefile"), "--config", "experiment=scaling"),
    ]


def dry_run(folder: Path, shards: int) -> dict[str, Any]:
    """Return what building the DAG of ``shards`` shards costs, by ``snakemake -n``."""
    command = prepare_workflow(folder, records=100 * shards)
    target = "results/scaling/arms/curated/train.json"
    log = folder.with_name(f"dag-{shards}.log")
    cost = run([*command, "-n", "--quiet", "rules", "--", target], log)
    jobs = next(int(line.split()[1]) for line in log.read_text().splitlines() if "total" in line)
    return {
        "shards": shards,
        "jobs": jobs,
        "wall, s": cost.wall,
        "CPU, s": cost.cpu,
        "CPU ms a job": 1000 * cost.cpu / jobs,
        "memory, MiB": cost.rss_mib,
    }


def overhead(args: argparse.Namespace) -> dict[str, float]:
    """Return what Snakemake adds to each job: ten shards of 100 records, run by it and without."""
    corpus = build(args.folder / "corpus", 1000, args.pictures)
    folder = args.folder / "run"
    command = prepare_workflow(folder, 1000, corpus)
    target = "results/scaling/corpus/scaling/recipes/basic/kept/{}.jsonl"
    targets = [target.format(name) for name in shard_names(10)]
    log = args.folder / "run.log"
    whole = run([*command, "--cores", str(args.cores), "--", *targets], log)
    work = args.folder / "work"
    costs = Curation(corpus, 1000, 100, args.cores, work).run()
    alone = [costs[step] for step in ("validate", "split", "measure", "select")]
    return {
        "jobs": 31,
        "wall_seconds": whole.wall,
        "cpu_seconds": whole.cpu,
        "wall_seconds_without_snakemake": sum(cost.wall for cost in alone),
        "cpu_seconds_without_snakemake": sum(cost.cpu for cost in alone),
        "cpu_seconds_a_job": (whole.cpu - sum(cost.cpu for cost in alone)) / 31,
    }


if __name__ == "__main__":
    main()
