"""docs/file-map.md names every module once, with the first sentence of its docstring."""

import re

import pytest

from tests.file_map import PAGE, ROOT, modules, render, summary

LINE = re.compile(r"^\| `(\S+)` \| (.+) \|$", re.M)
HEADING = re.compile(r"^## `(\S+)/`\n\n(.+)$", re.M)


def lines():
    """(file, text) of every line of the page; a package's text is its ``__init__.py``'s."""
    text = PAGE.read_text()
    packages = [(f"{folder}/__init__.py", line) for folder, line in HEADING.findall(text)]
    return [*packages, *LINE.findall(text)]


def left_out():
    return {str(file) for file in modules()} - {file for file, _ in lines()}


def test_every_module_stands_in_it_once_and_nothing_else():
    named = [file for file, _ in lines()]
    assert len(set(named)) == len(named)
    assert set(named) <= {str(file) for file in modules()}
    # A strategy that somebody tries out is one module and one YAML, and no line here.
    assert all(file.startswith("baselines/") for file in left_out()), left_out()


def test_every_line_is_what_the_module_says_of_itself():
    for file, text in lines():
        assert text.rstrip(".") == summary((ROOT / file).read_text()).replace("|", "\\|"), file


def test_it_is_as_it_would_be_written_now():
    assert PAGE.read_text() == render(left_out()), "run python -m tests.file_map"


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("One. Two.", "One"),
        ("As Cheng et al. 2024 have it. More.", "As Cheng et al. 2024 have it"),
        ("Over two\nlines\n\nRest.", "Over two lines"),
        ("``code`` of v1.5 here.", "`code` of v1.5 here"),
    ],
)
def test_the_first_sentence(docstring, sentence):
    assert summary(f'"""{docstring}"""') == sentence
    assert summary("x = 1") == ""
