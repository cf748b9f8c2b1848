"""Tables of the page that can also be downloaded as CSV."""

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from typing import Any

from markupsafe import Markup

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class _Cells(HTMLParser):
    """Collects the rows of a table as lists of texts.

    A cell's ``data-value`` stands for its text; ``|`` divides it into several
    columns, such as the ends of an interval.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._value: str | None = None
        self._text: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self._value, self._text = dict(attrs).get("data-value"), []

    def handle_data(self, data: str) -> None:
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("td", "th") or self._text is None:
            return
        text = " ".join("".join(self._text).replace("\u202f", "").replace("−", "-").split())
        self.rows[-1] += [text] if self._value is None else self._value.split("|")
        self._text = None


def csv_uri(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as a CSV file in a data URI.

    A text that a spreadsheet would run as a formula gets a leading apostrophe.
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([_guarded(v) for v in row] for row in rows)
    return "data:text/csv;base64," + base64.b64encode(buffer.getvalue().encode()).decode("ascii")


def _guarded(value: Any) -> str:
    text = "" if value is None else str(value)
    if not text.startswith(_FORMULA_STARTS):
        return text
    try:
        float(text.replace(" ", ""))
    except ValueError:
        return f"'{text}"
    return text


def table(body: str, name: str, label: str) -> Markup:
    """Return a table that scrolls, sorts and downloads, from its ``thead`` and ``tbody``.

    A Jinja filter block: what a reader downloads is what the page shows, at
    the precision of the cells' ``data-value``.

    Args:
        body: HTML of the table's content, as a template rendered and escaped it.
        name: unique on the page; also the name of the CSV file.
        label: of the table, for screen readers.
    """
    cells = _Cells()
    cells.feed(body)
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{label}">\n'
        '<table id="table-{name}">\n{body}</table>\n</div>\n'
        '<p class="get"><a href="{uri}" download="{name}.csv">CSV'
        '<span class="unseen"> of {label}</span></a></p>\n'
    ).format(label=label, name=name, body=Markup(body), uri=csv_uri(cells.rows))  # noqa: S704
