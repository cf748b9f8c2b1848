import importlib
import re
import shlex

import pytest
from docs_pages import ROOT, refusal_of

ENTRIES = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
# A file for Data-Juicer's `custom_operator_paths`; it is imported, never run.
NO_COMMAND = {"recap_captioning_mapper"}
RULE_FILES = sorted((ROOT / "rules").glob("*.smk"))


@pytest.mark.parametrize("entry", sorted(set(ENTRIES) - NO_COMMAND))
def test_help_ends_with_an_example_that_works(entry):
    parser = importlib.import_module(entry).parser()
    assert parser.description
    _, sign, rest = (parser.epilog or "").partition("example:\n  ")
    assert sign, f"no example in {entry} --help"
    example = rest.partition("\n\n")[0].replace("\\\n", " ")
    first, *arguments = shlex.split(example)
    while first in ("python", "srun") or not first.endswith(".py"):
        first, *arguments = arguments
    assert first.rpartition("/")[2] == f"{entry}.py"
    assert refusal_of(parser, arguments) == ""


@pytest.mark.parametrize("entry", sorted(set(ENTRIES) - NO_COMMAND))
def test_every_option_is_explained(entry):
    parser = importlib.import_module(entry).parser()
    assert [a.dest for a in parser._actions if not a.help] == []


@pytest.mark.parametrize("path", [ROOT / "Snakefile", *RULE_FILES], ids=lambda path: path.name)
def test_every_rule_says_what_it_does(path):
    """`snakemake --list-rules` shows the first string; a derived rule has its parent's."""
    text = path.read_text(encoding="utf-8")
    rules = re.findall(
        r'^(?:rule|checkpoint) (\w+):\n(    """[A-Z][^"]+\.""")?', text, re.MULTILINE
    )
    assert [name for name, docstring in rules if not docstring] == []


def test_rules_were_found():
    text = "".join(path.read_text(encoding="utf-8") for path in RULE_FILES)
    assert len(re.findall(r"^rule \w+:", text, re.MULTILINE)) > 30
