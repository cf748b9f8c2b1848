import ast
import importlib
import importlib.util
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from docs_pages import ROOT, blocks, command_words, pages, refusal_of, spans
from pydantic import BaseModel

from recap.config.schema import ExperimentConfig

PAGES = pages()
COMMANDS = [(block, words) for page in PAGES for block in blocks(page) for words in block.commands]
FILE_ENDINGS = ("json", "jsonl", "md", "py", "yaml", "tsv", "svg", "html")


def _named(block, words):
    return f"{block.page}:{block.line}: {' '.join(words)}"


@cache
def make_targets():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


@cache
def make_variables():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([A-Z_]+) \?=", text, re.MULTILINE))


def test_make_runs_its_targets_whatever_files_there_are():
    """`docs` is a folder too: without .PHONY, make would find it up to date."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split()
    assert make_targets() == set(phony)


def test_make_targets_and_variables_exist():
    spoken = [
        (page, line, words)
        for page in PAGES
        for line, text in spans(page)
        if (words := command_words(text))[:1] == ["make"]
    ]
    spoken += [(b.page, b.line, words) for b, words in COMMANDS if words[0] == "make"]
    assert len(spoken) > 20
    wrong = []
    for page, line, words in spoken:
        for word in words[1:]:
            name, sign, _ = word.partition("=")
            if name not in (make_variables() if sign else make_targets()):
                wrong.append(f"{page}:{line}: make knows no {name}")
    assert not wrong


def _scripts():
    for block, words in COMMANDS:
        program = words[0].rpartition("/")[2]
        if program == "python" and words[1:] and words[1].endswith(".py"):
            yield block, words


def test_scripts_take_the_flags_shown():
    wrong, seen = [], 0
    for block, words in _scripts():
        if not (ROOT / words[1]).is_file():
            wrong.append(f"{_named(block, words)}: there is no {words[1]}")
        elif words[1].startswith("scripts/"):
            seen += 1
            parser = importlib.import_module(words[1][8:-3]).parser()
            if refusal := refusal_of(parser, words[2:]):
                wrong.append(f"{_named(block, words)}: {refusal}")
    assert seen > 10
    assert not wrong


def test_benchmarks_take_the_flags_shown():
    wrong = []
    for block, words in _scripts():
        if words[1].startswith("benchmarks/"):
            source = (ROOT / words[1]).read_text(encoding="utf-8")
            flags = [word for word in words[2:] if word.startswith("--")]
            wrong += [f"{_named(block, words)}: no {f}" for f in flags if f'"{f}"' not in source]
    assert not wrong


@cache
def snakemake_options():
    """Return the options in Snakemake's own source; importing its parser takes seconds."""
    folder = Path(importlib.util.find_spec("snakemake").submodule_search_locations[0])
    tree = ast.parse((folder / "cli.py").read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    added = [call for call in calls if getattr(call.func, "attr", "") == "add_argument"]
    return {
        argument.value
        for call in added
        for argument in call.args
        if isinstance(argument, ast.Constant) and str(argument.value).startswith("-")
    }


def test_snakemake_takes_the_options_shown():
    wrong, seen = [], 0
    for block, words in COMMANDS:
        if words[0].rpartition("/")[2] != "snakemake":
            continue
        seen += 1
        options = [word.partition("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)]
        wrong += [f"{_named(block, words)}: {o}" for o in options if o not in snakemake_options()]
        for option, value in pairwise(words):
            if option.endswith("profile") and "/" in value and not (ROOT / value).is_dir():
                wrong.append(f"{_named(block, words)}: there is no {value}")
    assert seen > 2
    assert not wrong


@cache
def config_keys():
    keys = set()

    def walk(model, prefix):
        for name, field in model.model_fields.items():
            keys.add(f"{prefix}{name}")
            annotation = field.annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                walk(annotation, f"{prefix}{name}.")

    walk(ExperimentConfig, "")
    return keys


def _dotted(text):
    """Return the key that inline code names, such as ``train.finetune.lora.rank: 16``; or none."""
    match = re.match(r"([a-z_]+(?:\.(?:[a-z_]+|<[a-z]+>))+)(?=$|[:= ])", text)
    if not match or match[1].rpartition(".")[2] in FILE_ENDINGS:
        return None
    head = match[1].partition(".")[0]
    sections = {key.partition(".")[0] for key in config_keys() if "." in key}
    return match[1] if head in sections else None


def _known(key):
    pattern = re.sub(r"<[a-z]+>", "[a-z_]+", key.replace(".", r"\."))
    return any(re.fullmatch(pattern, known) for known in config_keys())


def test_settings_that_pages_name_exist():
    named = [(p, n, key) for p in PAGES for n, text in spans(p) if (key := _dotted(text))]
    assert len(named) > 20
    assert not [f"{p}:{n}: {key}" for p, n, key in named if not _known(key)]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("train.finetune.shard_base", True),
        ("train.<stage>.shard_base: true", True),
        ("train.finetune.shard_bases", False),
        ("quality.token_budget", True),
    ],
)
def test_the_check_of_settings_tells_right_from_wrong(text, known):
    assert _known(_dotted(text)) is known


def test_config_given_on_the_command_line_exists():
    wrong = []
    for block, words in COMMANDS:
        if "--config" not in words or words[0].rpartition("/")[2] != "snakemake":
            continue
        for word in words[words.index("--config") + 1 :]:
            key, sign, _ = word.partition("=")
            if not sign:
                break
            if key not in config_keys():
                wrong.append(f"{_named(block, words)}: {key}")
    assert not wrong
