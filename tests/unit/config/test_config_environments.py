"""The conda environments against what each stage's code imports.

Conda itself is not run here: what it would install by pip is compared with what is installed.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "scripts"
# What the code can do without, and says so, or what a stage does not reach.
NOT_NEEDED = {
    "analysis": {
        "torch": "hashes of tensors, which no step of the comparison asks for",
        "transformers": "models behind the similarities that it only reads",
    },
    "curate": {"simhash": "the package of one deduplicator, which is not among the pins"},
    "vlm": {
        "bitsandbytes": "4-bit bases, which say what to install",
        "triton": "comes with torch's builds for CUDA",
        "wandb": "a tracker that is off by default",
    },
}


def pins(environment: str) -> list[str]:
    document = yaml.safe_load((ROOT / f"envs/{environment}.yaml").read_text())
    return [
        entry.partition("==")[0]
        for entry in document["dependencies"][-1]["pip"]
        if not entry.startswith("-")
    ]


def stages() -> Iterator[tuple[str, str, str]]:
    """Yield rule, environment and script of every rule that names them."""
    for path in sorted((ROOT / "rules").glob("*.smk")):
        for block in re.split(r"\n\n\n", path.read_text()):
            rule = re.match(r"(?:.*\n)*?rule (\w+):", block)
            environment = re.search(r"envs/(\w+)\.yaml", block)
            script = re.search(r"scripts/\w+\.py", block)
            if rule and environment and script:
                yield rule[1], environment[1], script[0]


def module_file(name: str) -> Path | None:
    base = SCRIPTS / Path(*name.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Return the modules that a file imports when it runs, relative names resolved."""
    tree = ast.parse(path.read_text())
    package = list(path.relative_to(SCRIPTS).parts[:-1])
    checked = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in checked:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def third_parties(*files: str) -> set[str]:
    """Return the packages that scripts or modules may import, through every module of ours."""
    waiting, seen, found = [ROOT / name for name in files], set(), set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imports_of(path):
            parts = name.split(".")
            if parts[0] == "recap":
                files = (module_file(".".join(parts[: n + 1])) for n in range(len(parts)))
                waiting += filter(None, files)
            elif parts[0] not in sys.stdlib_module_names:
                found.add(parts[0])
    return found


@cache
def modules_of(environment: str) -> frozenset[str]:
    """Return what can be imported where the pins and all that they require are installed."""
    waiting, seen = pins(environment), set()
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        for requirement in map(Requirement, metadata.requires(name) or []):
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and is_installed(requirement.name):
                waiting.append(requirement.name)
    providers = metadata.packages_distributions()
    return frozenset(
        module
        for module, names in providers.items()
        if seen & {name.lower().replace("_", "-") for name in names}
    )


def is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


@pytest.mark.parametrize("environment", ["curate", "vlm", "analysis"])
def test_an_environment_covers_what_its_rules_import(environment: str) -> None:
    missing = {}
    for rule, name, script in stages():
        if name == environment:
            lacking = third_parties(script) - modules_of(name) - NOT_NEEDED[name].keys()
            if lacking:
                missing[rule] = sorted(lacking)
    assert not missing


def test_a_login_node_can_read_the_workflow_and_plan_it() -> None:
    """Parsing imports these at once; what functions import later is the compute nodes' business."""
    text = (ROOT / "rules/common.smk").read_text()
    named = re.findall(r"^from (scripts\.\S+) import", text, flags=re.MULTILINE)
    assert len(named) > 10
    script = (
        "import sys; before = set(sys.modules); "
        f"import {', '.join(named)}, scripts.recap.planning.plan, scripts.recap.cluster.digest; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    installed = set(metadata.packages_distributions())
    assert (set(shown.split()) & installed) - modules_of("controller") == set()


def test_every_rule_that_runs_something_has_an_environment() -> None:
    covered = {rule for rule, _, _ in stages()}
    own = re.compile(r"^rule (\w+):\n(?:.*\n)*?    shell:", re.MULTILINE)
    rules = {
        name for path in (ROOT / "rules").glob("*.smk") for name in own.findall(path.read_text())
    }
    assert len(covered) > 30
    assert rules <= covered


def test_what_is_not_needed_is_still_imported_somewhere() -> None:
    for environment, reasons in NOT_NEEDED.items():
        scripts = [script for _, name, script in stages() if name == environment]
        assert reasons.keys() <= set().union(*map(third_parties, scripts))


@pytest.mark.parametrize("path", sorted((ROOT / "envs").glob("*.yaml")), ids=lambda p: p.stem)
def test_an_environment_is_one_that_conda_can_read(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    assert document["channels"] == ["conda-forge", "nodefaults"]
    *of_conda, of_pip = document["dependencies"]
    assert all(re.fullmatch(r"[a-z]+=[\d.]+", entry) for entry in of_conda)
    # a pip section needs pip, and every line of it one exact version
    assert [entry.partition("=")[0] for entry in of_conda] == ["python", "pip"]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.+]+", entry) for entry in of_pip["pip"])
    names = [entry.partition("==")[0] for entry in of_pip["pip"]]
    assert names == sorted(set(names))


def test_no_pin_file_takes_the_place_of_an_environment_with_a_pip_section() -> None:
    """Snakemake installs from a pin file instead, which cannot hold what pip installs."""
    assert not list((ROOT / "envs").glob("*.pin.txt"))


# What Snakemake asks conda before it writes a Dockerfile.
CONDA = """#!/bin/sh
case "$1" in
    info) echo '{"conda_prefix": "/opt/conda", "platform": "linux-64"}' ;;
    --version) echo conda 24.7.1 ;;
    config) echo '{"get": {"channel_priority": "strict"}}' ;;
    *) exit 9 ;;
esac
"""


def test_a_dockerfile_holds_every_environment_of_the_rules(tmp_path: Path) -> None:
    conda = tmp_path / "conda"
    conda.write_text(CONDA)
    conda.chmod(0o755)
    paths = (str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"])
    command = ("snakemake", "--profile", "profiles/local", "--config", "experiment=smoke")
    done = subprocess.run(
        [*command, "--containerize"],
        cwd=ROOT,
        env=os.environ | {"PATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    copied = dict(re.findall(r"^COPY (\S+) (/conda-envs/\S+)$", done.stdout, flags=re.MULTILINE))
    assert set(copied) == {f"envs/{name}.yaml" for _, name, _ in stages()}
    for target in copied.values():
        assert f"--prefix {Path(target).parent} --file {target}" in done.stdout
