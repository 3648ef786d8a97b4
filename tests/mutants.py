"""Breaks the code on purpose, one place at a time, and sees whether the tests notice.

    python -m tests.mutants                    every break of tests/mutants.yaml
    python -m tests.mutants ema intervals      those with such a word in their name

Breaks are made in a copy of the tree, which a fresh process of pytest then runs the named tests
in. The work tree itself is never touched.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import yaml

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "mutants.yaml"
LIMIT = 600
"""Seconds after which tests that a break has hung count as fallen."""


class Wrong(Exception):
    """The list does not fit the code; says where."""


@dataclass(frozen=True)
class Mutant:
    """A break of the code.

    Attributes:
        name: for people.
        file: relative to the root of the tree.
        old: a text that stands in the file exactly once.
        new: what takes its place.
        tests: what pytest is asked for; one of them must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def broken(self, root: Path) -> str:
        """The file's text with the break in it.

        Raises:
            Wrong: there is no such file, or the old text does not stand in it exactly once.
        """
        path = root / self.file
        if not path.is_file():
            raise Wrong(f"{self.name}: there is no {self.file}")
        text = path.read_text()
        if (found := text.count(self.old)) != 1:
            raise Wrong(f"{self.name}: {self.file} has its old text {found} times, not once")
        return text.replace(self.old, self.new)


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: ``killed``, ``SURVIVED`` or ``ERROR``, and pytest's last words."""

    mutant: Mutant
    verdict: str
    seconds: float
    output: str = ""


def read(path: Path = LIST) -> list[Mutant]:
    """The mutants of a list, in its order."""
    rows = yaml.safe_load(path.read_text()) or {}
    return [
        Mutant(name, row["file"], row["old"], row["new"], tuple(row["tests"]))
        for name, row in rows.items()
    ]


def chosen(mutants: Sequence[Mutant], words: Sequence[str]) -> list[Mutant]:
    """Mutants with any of the words in their name, all of them without words.

    Raises:
        Wrong: there is none.
    """
    found = [m for m in mutants if not words or any(word in m.name for word in words)]
    if not found:
        raise Wrong(f"no mutant's name holds {' or '.join(words)}")
    return found


def copy_tree(root: Path, to: Path) -> Path:
    """The files of a clone that git knows or does not ignore."""
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, cwd=root, capture_output=True, check=True).stdout.split(b"\0")
    for name in map(os.fsdecode, filter(None, names)):
        if (root / name).is_file():  # not deleted since
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)
    return to


def run_tests(tree: Path, tests: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run some tests of a copy, with the copy's code."""
    places = {"PYTHONPATH": str(tree), "TMPDIR": str(tree.parent)}
    # A compiled file is known by its second and its size, which two breaks may share.
    quick = {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    quick["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    return subprocess.run(
        words, cwd=tree, env={**os.environ, **places, **quick}, timeout=LIMIT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


def attempt(tree: Path, mutant: Mutant) -> Outcome:
    """Break a copy, run the mutant's tests and mend it again."""
    path, began = tree / mutant.file, time.monotonic()
    whole = path.read_text()
    try:
        path.write_text(mutant.broken(tree))
        done = run_tests(tree, mutant.tests)
        # Anything but passed and failed, such as a test that is not there, says nothing.
        verdict = {0: "SURVIVED", 1: "killed"}.get(done.returncode, "ERROR")
        output = done.stdout
    except subprocess.TimeoutExpired:
        verdict, output = "killed", f"hung for {LIMIT} s"
    finally:
        path.write_text(whole)
    return Outcome(mutant, verdict, time.monotonic() - began, output)


def check_whole(tree: Path, mutants: Sequence[Mutant]) -> None:
    """See that all named tests pass as long as nothing is broken.

    Raises:
        Wrong: they do not.
    """
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    done = run_tests(tree, tests)
    if done.returncode:
        raise Wrong(f"the tests must pass before anything is broken:\n{done.stdout[-3000:]}")


@contextmanager
def copies(root: Path, count: int) -> Iterator[list[Path]]:
    """So many copies of a tree, which are removed again."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        yield [copy_tree(root, Path(folder) / str(i) / "tree") for i in range(count)]


def outcomes(trees: Sequence[Path], mutants: Sequence[Mutant]) -> Iterator[Outcome]:
    """Try mutants, as many at a time as there are copies."""
    free: SimpleQueue[Path] = SimpleQueue()
    for tree in trees:
        free.put(tree)

    def one(mutant: Mutant) -> Outcome:
        tree = free.get()
        try:
            return attempt(tree, mutant)
        finally:
            free.put(tree)

    pool = ThreadPoolExecutor(len(trees))
    try:
        yield from pool.map(one, mutants)
    finally:
        pool.shutdown(cancel_futures=True)


def hunt(root: Path, mutants: Sequence[Mutant], jobs: int = 2) -> bool:
    """Try mutants and say of each what became of it; whether all were killed.

    Raises:
        Wrong: the list does not fit the code, or the tests fail without any break.
    """
    for mutant in mutants:
        mutant.broken(root)
    with copies(root, min(jobs, len(mutants))) as trees:
        print(f"{len(mutants)} mutants; first their tests without any of them", flush=True)
        check_whole(trees[0], mutants)
        alive = []
        for i, outcome in enumerate(outcomes(trees, mutants), 1):
            place, took = f"[{i:2}/{len(mutants)}]", f"({outcome.seconds:.0f} s)"
            print(f"{place} {outcome.verdict:8} {outcome.mutant.name} {took}", flush=True)
            alive += [outcome] if outcome.verdict != "killed" else []
    for outcome in alive:
        mutant = outcome.mutant
        print(f"\n{outcome.verdict}: {mutant.name}\n  {mutant.file}: {mutant.old}")
        print(f"  became {mutant.new}\n  and {', '.join(mutant.tests)} said:")
        print("    " + "\n    ".join(outcome.output.splitlines()[-8:]))
    print(f"\n{len(mutants) - len(alive)} of {len(mutants)} mutants were killed")
    return not alive


def main(words: Sequence[str] | None = None) -> int:
    """The command; see the module."""
    parser = argparse.ArgumentParser("python -m tests.mutants", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of the names of those to try")
    parser.add_argument("-k", action="append", default=[], metavar="NAME", help="the same")
    parser.add_argument("--list", type=Path, default=LIST, help="another list than tests/'s own")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    given = parser.parse_args(words)
    try:
        found = chosen(read(given.list), [*given.names, *given.k])
        return 0 if hunt(ROOT, found, given.jobs) else 1
    except Wrong as wrong:
        print(f"error: {wrong}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
