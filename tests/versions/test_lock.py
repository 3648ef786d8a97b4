"""requirements.lock answers pyproject.toml, for each Python, with hashes."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYTHONS = ["3.11", "3.12", "3.13"]
FALSE_RELEASES = {"lightning": {"2.6.2", "2.6.3"}, "pytorch-lightning": {"2.6.2", "2.6.3"}}
"""Malicious ones, which PyPI has withdrawn."""


def environment(python):
    """What markers see on the machines that the lock is for."""
    system = {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    version = {"python_version": python, "python_full_version": f"{python}.0"}
    return default_environment() | system | version | {"extra": ""}


@pytest.fixture(scope="module")
def entries():
    """Each entry of the lock as one line: requirement, marker, hashes."""
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    return [
        line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]


def pinned(entries, python):
    """Versions by name, of the entries whose markers hold."""
    found = {}
    for entry in entries:
        one = Requirement(entry.split("--hash")[0])
        if one.marker is None or one.marker.evaluate(environment(python)):
            assert canonicalize_name(one.name) not in found, f"{one.name} is locked twice"
            (pin,) = one.specifier
            assert pin.operator == "=="
            found[canonicalize_name(one.name)] = pin.version
    return found


def wanted(python):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    groups = (project["dependencies"], extras["dev"], extras["arcface"], extras["docs"])
    every = [Requirement(requirement) for group in groups for requirement in group]
    return [r for r in every if r.marker is None or r.marker.evaluate(environment(python))]


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_locked_within_its_range(entries, python):
    locked = pinned(entries, python)
    for requirement in wanted(python):
        version = locked.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not locked: run make lock UPGRADE="
        assert version in requirement.specifier, f"{requirement} is locked at {version}"


@pytest.mark.parametrize("python", PYTHONS)
def test_no_false_release_is_locked(entries, python):
    locked = pinned(entries, python)
    for name, versions in FALSE_RELEASES.items():
        assert locked[name] not in versions


def test_every_entry_has_hashes_and_no_place(entries):
    for entry in entries:
        name, *hashes = re.split(r"\s+--hash=", entry)
        assert hashes, f"{name} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", h) for h in hashes), name
        assert "://" not in entry
        assert "@" not in entry
        assert not entry.startswith("-")


def test_the_lock_holds_for_torch_with_cuda(entries):
    """Plain PyPI's torch: a lock of another index's build has a local version and no nvidia."""
    locked = pinned(entries, "3.11")
    assert "+" not in locked["torch"]
    assert any(name.startswith("nvidia-cudnn") for name in locked)


@pytest.mark.parametrize("python", PYTHONS)
def test_nothing_holds_numpy_back(entries, python):
    locked = pinned(entries, python)
    assert locked["numpy"].startswith("2.")
    assert "mediapipe" not in locked


def test_the_lock_is_for_each_python_that_the_project_allows():
    allowed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    minors = [f"3.{minor}" for minor in range(9, 20) if f"3.{minor}.9" in SpecifierSet(allowed)]
    assert minors == PYTHONS
