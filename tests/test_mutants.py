"""The list of breaks that tests must notice fits the code, and its runner tells who noticed."""

import re
import subprocess

import pytest

from tests import mutants
from tests.mutants import ROOT, Mutant, Wrong, chosen, copy_tree, hunt, read

LISTED = read()


def test_every_break_has_its_place_and_its_tests():
    """What refactoring moved must be moved in the list as well."""
    assert len({m.name for m in LISTED}) == len(LISTED) > 20
    for mutant in LISTED:
        assert mutant.broken(ROOT) != (ROOT / mutant.file).read_text(), mutant.name
        assert mutant.tests, mutant.name
        for test in mutant.tests:
            path, _, name = test.partition("::")
            function = re.escape(name.partition("[")[0])
            found = re.search(rf"^def {function}\(", (ROOT / path).read_text(), re.MULTILINE)
            assert found, f"{mutant.name}: there is no {test}"


@pytest.fixture
def tree(tmp_path):
    """A clone with a function, a good test of it and one that sees nothing."""
    root = tmp_path / "clone"
    (root / "tests").mkdir(parents=True)
    (root / "code_under_test.py").write_text("def twice(x):\n    return 2 * x\n")
    (root / "tests/test_code.py").write_text(
        "import code_under_test as code\n\n\n"
        "def test_good():\n    assert code.twice(3) == 6\n\n\n"
        "def test_blind():\n    assert code.twice(0) == 0\n"
    )
    subprocess.run(["git", "init", "--quiet", root], check=True)
    return root


def broken(name, test, old="2 * x", new="3 * x"):
    return Mutant(name, "code_under_test.py", old, new, (f"tests/test_code.py::{test}",))


def test_a_break_that_no_test_notices_survives(tree, capsys):
    before = (tree / "code_under_test.py").read_text()
    assert not hunt(tree, [broken("seen", "test_good"), broken("unseen", "test_blind")])
    out = capsys.readouterr().out
    assert "killed   seen" in out
    assert "SURVIVED unseen" in out
    assert "1 of 2 mutants were killed" in out
    assert (tree / "code_under_test.py").read_text() == before


def test_a_test_that_is_not_there_or_fails_anyway_is_an_error(tree):
    with pytest.raises(Wrong, match=r"(?s)must pass before anything is broken.*not found"):
        hunt(tree, [broken("seen", "test_gone")])
    (tree / "code_under_test.py").write_text("def twice(x):\n    return 2 * x + 1\n")
    with pytest.raises(Wrong, match=r"(?s)must pass before anything is broken.*assert 7 == 6"):
        hunt(tree, [broken("seen", "test_good")])


@pytest.mark.parametrize("old", ["4 * x", "x"], ids=["gone", "twice"])
def test_a_text_that_is_not_there_exactly_once_is_an_error(tree, old):
    with pytest.raises(Wrong, match=r"seen: code_under_test\.py has its old text \d times"):
        hunt(tree, [broken("seen", "test_good", old)])


def test_copies_have_what_is_new_and_not_what_is_ignored(tree, tmp_path):
    (tree / ".gitignore").write_text("*.log\n")
    (tree / "a.log").touch()
    copy = copy_tree(tree, tmp_path / "copy")
    assert {p.name for p in copy.rglob("*") if p.is_file()} == {
        ".gitignore", "code_under_test.py", "test_code.py"
    }  # fmt: skip


def test_breaks_are_chosen_by_parts_of_their_names():
    names = [m.name for m in chosen(LISTED, ["noise"])]
    assert 0 < len(names) < len(LISTED)
    assert all("noise" in name for name in names)
    with pytest.raises(Wrong, match="no mutant's name holds nothing-of-the-kind"):
        chosen(LISTED, ["nothing-of-the-kind"])
    assert mutants.main(["nothing-of-the-kind"]) == 2
