import re

import yaml
from docs_pages import ROOT, pages


def _read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def _entries(nav):
    for item in nav:
        for value in item.values():
            if isinstance(value, list):
                yield from _entries(value)
            else:
                yield value


def test_every_page_has_a_place_in_the_navigation():
    listed = list(_entries(yaml.safe_load(_read("mkdocs.yml"))["nav"]))
    wanted = [page.removeprefix("docs/") for page in pages() if page.startswith("docs/")]
    assert sorted(listed) == sorted([*wanted, "configuration.md"])


def _pins(name):
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", _read(name), re.MULTILINE))


def test_what_builds_the_pages_is_pinned_as_elsewhere():
    main, docs = _pins("envs/requirements.lock"), _pins("envs/docs.lock")
    assert "mkdocs" in docs
    assert {n: v for n, v in docs.items() if main.get(n, v) != v} == {}


def test_the_table_of_versions_is_the_lock():
    rows = re.findall(
        r"^\| `([a-z0-9-]+)` \| ([0-9.]+) \|", _read("docs/compatibility.md"), re.MULTILINE
    )
    lock = _pins("envs/requirements.lock")
    assert len(rows) > 10
    assert dict(rows) == {name: lock.get(name) for name, _ in rows}


def test_versions_beside_the_lock_are_those_of_the_other_locks():
    table = dict(
        re.findall(r"^\| ([a-z]+) \| ([0-9.]+) \|", _read("docs/compatibility.md"), re.MULTILINE)
    )
    assert table["rapidocr"] == _pins("envs/ocr.lock")["rapidocr"]
    assert table["mkdocs"] == _pins("envs/docs.lock")["mkdocs"]
    assert f"bitsandbytes=={table['bitsandbytes']}" in _read("docs/training.md")


def test_citation_and_package_have_one_version():
    citation = yaml.safe_load(_read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert f'version = "{citation["version"]}"' in _read("pyproject.toml")
    assert f'license = "{citation["license"]}"' in _read("pyproject.toml")


def test_the_catalog_names_a_profile_that_exists():
    usage = yaml.safe_load(_read(".snakemake-workflow-catalog.yml"))["usage"]
    option, profile = usage["mandatory-flags"]["flags"].split()
    assert option == "--profile"
    assert (ROOT / profile / "config.yaml").is_file()
