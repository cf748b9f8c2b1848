"""Reading the project's pages: headings, links, code blocks and commands in them."""

import re
import shlex
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[3]
SHELLS = {"", "sh", "bash", "console"}


@dataclass(frozen=True)
class Block:
    """A code block: its page, the line it starts on, its language and its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """Return the words of each command; comments, variables and prompts are gone."""
        if self.language not in SHELLS:
            return []
        text = self.text.replace("\\\n", " ")
        return [words for line in text.splitlines() if (words := command_words(line))]


def command_words(line: str) -> list[str]:
    """Return the words of a shell command without leading variables, or nothing."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # prose or a drawing
        return []
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words


def refusal_of(parser: ArgumentParser, arguments: list[str]) -> str:
    """Return why a parser refuses these arguments; empty if it takes them."""

    def fail(message: str) -> NoReturn:
        raise ValueError(message)

    parser.error = fail  # type: ignore[method-assign]
    try:
        parser.parse_args(arguments)
    except ValueError as error:
        return str(error)
    return ""


def pages() -> list[str]:
    """Return every page, relative to the repository."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "config" / "README.md"]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


@cache
def tokens(page: str) -> list[Token]:
    """Return a page's tokens, tables included."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return MarkdownIt("commonmark").enable("table").parse(text)


def inline_tokens(page: str) -> Iterator[tuple[int, Token]]:
    """Yield each piece of running text with the line its block starts on."""
    line = 0
    for token in tokens(page):
        line = token.map[0] + 1 if token.map else line
        for child in token.children or []:
            yield line, child


def blocks(page: str) -> list[Block]:
    """Return a page's code blocks, fenced or indented."""
    return [
        Block(page, token.map[0] + 1 if token.map else 0, token.info.strip(), token.content)
        for token in tokens(page)
        if token.type in ("fence", "code_block")
    ]


def spans(page: str) -> list[tuple[int, str]]:
    """Return a page's inline code with the lines its blocks start on."""
    return [(line, token.content) for line, token in inline_tokens(page) if _is_code(token)]


def links(page: str) -> list[tuple[int, str]]:
    """Return where a page's links and pictures lead."""
    found = []
    for line, token in inline_tokens(page):
        target = token.attrGet("href") or token.attrGet("src")
        if target:
            found.append((line, str(target)))
    return found


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub and MkDocs give a page's headings alike."""
    found: list[str] = []
    for opening, title in pairwise(tokens(page)):
        if opening.type == "heading_open":
            text = "".join(c.content for c in title.children or [] if c.type in _TEXT)
            found.append(_github_anchor(text))
    return {anchor for anchor in found if "--" not in anchor}


_TEXT = ("text", "code_inline")


def _is_code(token: Token) -> bool:
    return token.type == "code_inline"


def _github_anchor(heading: str) -> str:
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")
