"""A table as an xlsx file, for servers that take nothing else.

The few parts of Office Open XML (ECMA-376, part 1) that one sheet of text and
numbers needs; the same table gives the same bytes.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.sax.saxutils import escape
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from ..errors import RecapError
from ..io import atomic_path

Cell = str | int | float | None

_LONGEST_TEXT = 32_767  # characters a cell may hold
_NOT_XML = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff\ud800-\udfff]|_x[0-9A-Fa-f]{4}_")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
_PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="rels" '
    'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.sheet.main+xml"/>'
    f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{_TYPE}.worksheet+xml"/>'
    "</Types>",
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/>'
    "</Relationships>",
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>'
    '<sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
    "</Relationships>",
}


def write_spreadsheet(
    path: str | Path, header: Sequence[str], rows: Sequence[Sequence[Cell]]
) -> None:
    """Write one sheet, atomically.

    Args:
        path: the file.
        header: names of the columns.
        rows: text, numbers, or nothing; empty text is an empty cell.

    Raises:
        RecapError: if a text is longer than a cell may be.
    """
    with atomic_path(path) as temporary, ZipFile(temporary, "w", ZIP_DEFLATED) as archive:
        for name, content in {**_PARTS, "xl/worksheets/sheet1.xml": _sheet(header, rows)}.items():
            archive.writestr(ZipInfo(name, _EPOCH), _HEAD + content, ZIP_DEFLATED)


def _sheet(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    lines = [
        f'<row r="{number}">{"".join(_cells(number, row))}</row>'
        for number, row in enumerate([header, *rows], start=1)
    ]
    return f'<worksheet xmlns="{_MAIN}"><sheetData>{"".join(lines)}</sheetData></worksheet>'


def _cells(number: int, row: Sequence[Cell]) -> Iterator[str]:
    for position, value in enumerate(row):
        place = f"{_column(position)}{number}"
        if isinstance(value, int | float):
            yield f'<c r="{place}"><v>{value}</v></c>'
        elif value:
            if len(value) > _LONGEST_TEXT:
                raise RecapError(
                    f"cell {place}: {len(value)} characters; an xlsx cell holds {_LONGEST_TEXT}"
                )
            text = escape(_NOT_XML.sub(_escaped, value))
            yield f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'


def _escaped(match: re.Match[str]) -> str:
    """Return ``_xHHHH_`` for what XML cannot hold, and for the start of such a text."""
    found = match.group()
    return f"_x005F_{found[1:]}" if len(found) > 1 else f"_x{ord(found):04X}_"


def _column(position: int) -> str:
    """Return the letters of a column, from 0: A, B, ..., Z, AA."""
    letters = ""
    position += 1
    while position:
        position, rest = divmod(position - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters
