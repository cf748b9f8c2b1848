"""The commands that rules make of a user's paths and of many shards."""

import json
import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from test_config_experiments import raw_config

from recap.config import load_experiment
from recap.config.fetching import FetchWiring
from recap.config.positive import PositiveControlWiring
from recap.config.wiring import Wiring

ROOT = Path(__file__).parents[3]
SHARDS = 3


def test_paths_with_spaces_stay_one_word_of_a_command():
    wiring = Wiring(load_experiment(raw_config("smoke")))
    base, models = wiring.experiment.base_model, wiring.experiment.models
    for name in (base.language_model, base.clip, base.convnext):
        changed = {"source": "local", "location": f"/my models/{name}"}
        models[name] = models[name].model_copy(update=changed)
    folders = {"--clip": f"/my models/{base.clip}", "--convnext": f"/my models/{base.convnext}"}
    words = shlex.split(wiring.base_flags())
    assert words[:2] == ["--language-model", f"/my models/{base.language_model}"]
    assert dict(zip(words[2:6:2], words[3:6:2], strict=True)) == folders
    towers = shlex.split(PositiveControlWiring(wiring).tower_flags())
    assert dict(zip(towers[::2], towers[1::2], strict=True)) == folders
    locks = {"model_locks": "my sheets/models.tsv", "data_locks": "it's/data.tsv"}
    sheets = wiring.config.sheets.model_copy(update=locks)
    fetching = FetchWiring(wiring)
    fetching._config = wiring.config.model_copy(update={"sheets": sheets})
    assert shlex.split(fetching.local_lock(base.clip)) == ["--lock", "my sheets/models.tsv"]
    assert shlex.split(fetching.import_lock("x/y.json")) == ["--lock", "it's/data.tsv"]


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """The commands of a dry run on a corpus of several shards in a folder with a space."""
    folder = tmp_path_factory.mktemp("own") / "sp ace"
    folder.mkdir()
    (folder / "records.jsonl").write_text("{}\n")
    (folder / "llava.json").write_text("[]\n")
    row = {"source": "local", "root": str(folder), "jsonl": "records.jsonl"}
    row |= {"original": "llava.json", "records": SHARDS}
    planned = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--dry-run", "--printshellcmds", "--cores", "8"),
            *("--config", "experiment=smoke", "corpus=own", f"corpora={json.dumps({'own': row})}"),
            *(
                "curate={shard_size: 1}",
                "arms=[baseline, blip2_enhanced]",
                "funnel_arms=[strict, blip2_low_similarity]",
            ),
        ],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return folder, planned


def of_rule(planned, rule):
    """Return the words of each command of a rule."""
    blocks = re.split(r"^(?:local)?rule (\w+):$", planned, flags=re.MULTILINE)
    texts = (text for name, text in pairwise(blocks) if name == rule)
    found = [text.partition("Shell command:")[2].partition("\n\n")[0] for text in texts]
    return [shlex.split(command.replace("\\\n", " ")) for command in found]


@pytest.mark.workflow
@pytest.mark.parametrize("rule", ["convert_llava", "convert_held_out"])
def test_a_corpus_in_a_folder_with_a_space(commands, rule):
    folder, planned = commands
    found = of_rule(planned, rule)
    assert found
    for words in found:
        assert words[words.index("--original") + 1] == str(folder / "llava.json")


@pytest.mark.workflow
@pytest.mark.parametrize(
    ("rule", "flag"),
    [
        ("decide_duplicates", "--hashes"),
        ("measure_quality", "--similarity"),
        ("compare_quality", "--similarity"),
        ("build_gallery", "--similarity"),
        ("choose_similarity_threshold", "--similarity"),
    ],
)
def test_commands_do_not_grow_with_the_number_of_shards(commands, rule, flag):
    """A shell's command may be 128 KiB long: the names of some 1,300 shards."""
    found = [words for words in of_rule(commands[1], rule) if flag in words]
    assert found
    for words in found:
        assert words[words.index(flag) + 1].endswith("/{00000..00002}.parquet")
        assert sum(word.endswith(".parquet") for word in words) <= 2
