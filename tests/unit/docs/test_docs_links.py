import posixpath
from urllib.parse import unquote

import pytest
from docs_pages import ROOT, anchors, blocks, links, pages

PAGES = pages()


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page):
    broken = []
    for line, target in links(page):
        if target.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
        if not (ROOT / file).exists():
            broken.append(f"{page}:{line}: {target} does not exist")
        elif anchor and anchor not in anchors(file):
            broken.append(f"{page}:{line}: {file} has no heading #{anchor}")
    assert not broken


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_reached_by_links(page):
    """A page that is named as code alone is out of reach on GitHub and on the site."""
    linked = {
        posixpath.normpath(posixpath.join(posixpath.dirname(other), target.partition("#")[0]))
        for other in PAGES
        if other != page
        for _, target in links(other)
    }
    assert page in linked or page == "README.md"


@pytest.mark.parametrize(
    ("page", "anchor"),
    [
        ("docs/training.md", "ending-in-time-and-going-on"),
        ("config/README.md", "columns-of-armstsv"),
    ],
)
def test_anchors_are_those_that_github_makes(page, anchor):
    assert anchor in anchors(page)


@pytest.mark.parametrize("page", PAGES)
def test_code_is_not_inside_lists(page):
    """MkDocs' Markdown ends a list at a fence that is set in; GitHub's does not."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.lstrip().startswith("```") and line[0] == " "] == []


def test_the_chinese_readme_has_the_same_code_blocks_as_the_english():
    english, chinese = blocks("README.md"), blocks("README.zh-CN.md")
    assert english
    assert [_code(b) for b in chinese] == [_code(b) for b in english]


def _code(block):
    """Comments may be translated; what is run or parsed may not differ."""
    lines = [line.partition("  #")[0].rstrip() for line in block.text.splitlines()]
    return block.language, lines


def test_the_readmes_link_to_each_other():
    assert "README.zh-CN.md" in [target for _, target in links("README.md")]
    assert "README.md" in [target for _, target in links("README.zh-CN.md")]
