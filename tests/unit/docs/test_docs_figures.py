import importlib.util
import re
from xml.etree import ElementTree

import pytest
from docs_pages import ROOT

FIGURES = ROOT / "docs" / "figures"
LIBRARY = ROOT / "scripts" / "recap"


def _draw():
    spec = importlib.util.spec_from_file_location("draw_figures", FIGURES / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DRAW = _draw()


@pytest.mark.parametrize("name", ["flow.svg", "flow.zh-CN.svg", "architecture.svg"])
def test_pictures_are_those_that_the_script_draws(name):
    assert (FIGURES / name).read_text(encoding="utf-8") == DRAW.drawings()[name]


@pytest.mark.parametrize("name", ["flow.svg", "flow.zh-CN.svg", "architecture.svg"])
def test_pictures_are_whole_and_stay_inside_their_frame(name):
    picture = ElementTree.fromstring((FIGURES / name).read_text(encoding="utf-8"))  # noqa: S314
    width, height = map(float, picture.get("viewBox").split()[2:])
    boxes = picture.findall("{http://www.w3.org/2000/svg}rect")
    assert len(boxes) > 10
    for box in boxes:
        assert float(box.get("x", 0)) + float(box.get("width")) <= width
        assert float(box.get("y", 0)) + float(box.get("height")) <= height


def _imported(package):
    """Return the packages of the library that a package's modules import."""
    names = {name for tier in DRAW.TIERS for name in tier}
    source = "".join(path.read_text(encoding="utf-8") for path in (LIBRARY / package).rglob("*.py"))
    found = re.findall(r"^\s*from \.{2,}([a-z_]+)[a-z_.]* import", source, re.MULTILINE)
    return set(found) & names - {package}


@pytest.mark.parametrize("tier", range(len(DRAW.TIERS)))
def test_packages_import_only_from_the_tiers_below(tier):
    below = {name for lower in DRAW.TIERS[tier + 1 :] for name in lower}
    for package in DRAW.TIERS[tier]:
        assert _imported(package) <= below, package


def test_every_package_is_in_the_picture():
    packages = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
    assert packages <= {name for tier in DRAW.TIERS for name in tier}
    assert "mgm" in _imported("train")
