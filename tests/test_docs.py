"""The documentation's links lead somewhere, and every page can be found from the site's menu."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "leaderboards").rglob("*.md"),
]
LINK = re.compile(r"\]\(([^()\s]+)\)")
CODE = re.compile(r"`((?:thbench|metrics|baselines|configs|benchmarks|tests)/[\w./-]*)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    links = [link.partition("#")[0] for link in LINK.findall(text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", ["architecture", "glossary"])
def test_files_that_are_named_exist(name):
    named = CODE.findall((ROOT / "docs" / f"{name}.md").read_text())
    assert len(named) > 10
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_glossary_names_what_is_in_the_code():
    """`file.py`: `Name`, `OTHER`, as its third column has them."""
    page = (ROOT / "docs/glossary.md").read_text()
    found = re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", page)
    assert len(found) > 10
    for path, names in found:
        text = (ROOT / path).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(class |def )?{name}\b", text, re.M), f"{path} has no {name}"


def test_the_menu_has_every_page():
    config = yaml.safe_load((ROOT / ".mkdocs/mkdocs.yml").read_text())
    named = set(files(config["nav"])) - {"index.md", "CONTRIBUTING.md", "CHANGELOG.md"}
    there = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert {name for name in named if not name.startswith("leaderboards/")} == there


def files(nav):
    for entry in nav.values() if isinstance(nav, dict) else nav:
        if isinstance(entry, str):
            yield entry
        else:
            yield from files(entry)
