"""Sheets and experiment files as people write them: odd names, quotes, blank lines, no YAML."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_config_experiments import raw_config

from recap.config import experiment_files, load_experiment
from recap.config.experiment import experiment_from_files
from recap.config.names import DOTTED, LABEL
from recap.config.rows import ArmRow
from recap.config.sheets import read_sheet
from recap.errors import RecapError


def sheet(tmp_path, text):
    path = tmp_path / "arms.tsv"
    path.write_text("# comment\narm\tcaption_policy\tcaptioner\n" + text)
    return path


def test_sheet_errors_name_file_line_and_column(tmp_path):
    cases = {
        "a\tkeep\n": "line 3: not as many cells",
        "a\tkeep\t\na\tkeep\t\n": "line 4: `a` is listed twice",
        "a\tmangle\t\n": r"line 3 \(a\): `caption_policy`",
        "\tkeep\t\n": "line 3: column `arm` is empty",
    }
    for text, message in cases.items():
        with pytest.raises(RecapError, match=message):
            read_sheet(sheet(tmp_path, text), "arm", ArmRow)


def test_a_quote_is_a_character_and_swallows_no_row(tmp_path):
    path = tmp_path / "arms.tsv"
    path.write_text(
        'arm\tcaption_policy\tdescription\na\tkeep\t"short" captions\n'
        'b\tkeep\t"all of them\nc\tkeep\t\n'
    )
    rows = read_sheet(path, "arm", ArmRow)
    assert [row.description for row in rows.values()] == ['"short" captions', '"all of them', ""]


def test_blank_lines_and_comments_move_no_line_number(tmp_path):
    path = tmp_path / "arms.tsv"
    path.write_bytes(b"arm\tcaption_policy\r\n\r\n\t\r\na\tkeep\r\n# b\r\n\r\nc\tmangle\r\n")
    with pytest.raises(RecapError, match=r"line 7 \(c\): `caption_policy`"):
        read_sheet(path, "arm", ArmRow)
    path.write_text("# nothing\n")
    assert read_sheet(path, "arm", ArmRow) == {}


@pytest.mark.parametrize("name", ["my arm", "v1.5", "a/b", "clip+blip", "a(1)", "-a", "\u00e9tude"])
def test_a_name_that_becomes_a_path_is_checked(tmp_path, name):
    with pytest.raises(RecapError, match=r"line 3: `arm`: `.*` becomes a part of file names"):
        read_sheet(sheet(tmp_path, f"{name}\tkeep\t\n"), "arm", ArmRow, LABEL)
    raw = raw_config("demo")
    raw["corpora"] = {name: {"source": "world", "root": "demo", "jsonl": "a", "records": 1}}
    with pytest.raises(RecapError, match=r"`corpora.*`: .* becomes a part of file names"):
        load_experiment(raw)


def test_names_of_models_may_have_dots_and_others_upper_case(tmp_path):
    path = sheet(tmp_path, "vicuna-7b-v1.5\tkeep\t\n")
    assert list(read_sheet(path, "arm", ArmRow, DOTTED)) == ["vicuna-7b-v1.5"]
    with pytest.raises(RecapError, match="digits, `_` and `-` alone"):
        read_sheet(path, "arm", ArmRow, LABEL)
    assert list(read_sheet(sheet(tmp_path, "My-2\tkeep\t\n"), "arm", ArmRow, LABEL)) == ["My-2"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my basic", "`my basic` becomes a part of file names"),
        ("sub/basic", "`sub/basic` becomes"),
        ("none", "`none` is no recipe; leave the cell empty"),
    ],
)
def test_names_of_recipes_are_checked(tmp_path, name, message):
    path = tmp_path / "arms.tsv"
    path.write_text(f"arm\tcaption_policy\tpre_recipe\na\tkeep\t{name}\n")
    with pytest.raises(RecapError, match=rf"line 2 \(a\): `pre_recipe`: .*{message}"):
        read_sheet(path, "arm", ArmRow)


FILES = {
    "title: {a\nseeds: [1]\n": r"mine\.yaml, line 2: this is no YAML: ",
    "title: a\n\tseeds: [1]\n": r"mine\.yaml, line 2: this is no YAML: found character",
    "# arms\n- baseline\n": r"mine\.yaml, line 2: expected settings .* found a list",
    "baseline\n": r"mine\.yaml, line 1: expected settings .* found a str",
}


@pytest.mark.parametrize("text", FILES)
def test_an_experiment_that_is_no_yaml_is_named_with_its_line(tmp_path, text):
    (tmp_path / "config/local").mkdir(parents=True)
    (tmp_path / "config/local/mine.yaml").write_text(text)
    with pytest.raises(RecapError, match=FILES[text]):
        experiment_files("mine", tmp_path)
    (tmp_path / "config/config.yaml").write_text(text.replace("mine", "config"))
    (tmp_path / "config/local/mine.yaml").write_text("title: mine\n")
    with pytest.raises(RecapError, match=FILES[text].replace("mine", "config")):
        experiment_from_files("mine", tmp_path)
    (tmp_path / "config/config.yaml").write_bytes(b"title: \xff\n")
    with pytest.raises(RecapError, match=r"config\.yaml: this is no YAML"):
        experiment_from_files("mine", tmp_path)


@pytest.mark.workflow
def test_a_recipe_in_upper_case_is_planned(tmp_path):
    """What the sheet accepts, the rules' wildcards must match."""
    root = Path(__file__).resolve().parents[3]
    for name in ("Snakefile", "rules", "scripts", "envs"):
        (tmp_path / name).symlink_to(root / name)
    config = shutil.copytree(root / "config", tmp_path / "config")
    (config / "recipes/basic.yaml").rename(config / "recipes/My-basic.yaml")
    arms = config / "arms.tsv"
    arms.write_text(arms.read_text().replace("\tbasic\t", "\tMy-basic\t"))
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "2"]
    command += ["--config", "experiment=smoke"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "recipe=My-basic" in done.stdout
