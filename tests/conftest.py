"""Tests share two cores: one thread each, and no progress of libraries on the terminal.

Everything that tests need lies in the repository. What needs a folder from outside is marked so and
is left out unless its option names the folder: ``real`` (clips of real people, ``--clips``),
``papers`` (their texts, ``--papers``), ``weights`` (published weight files, ``--weights``),
``paper`` (one step of every stage at paper scale, ``--scratch``: where its 20 GB may go). Tests
marked ``cuda`` run where torch sees a GPU, those marked ``browser`` where Chromium is installed
(``--browser`` names another).
"""

import importlib.util
import os
import shutil
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("THBENCH_CONFIG_DIR", None)  # strategies are listed while tests are collected

import pytest
import torch

from tests.tiny import bench, files  # noqa: F401

torch.set_num_threads(1)

OUTSIDE = {"real": "clips", "papers": "papers", "weights": "weights", "paper": "scratch"}
"""Options by the marker of the tests that need them."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Looked for on the path."""


def pytest_addoption(parser):
    for marker, option in OUTSIDE.items():
        parser.addoption(
            f"--{option}", type=Path, metavar="FOLDER", help=f"run the tests marked {marker} too"
        )
    parser.addoption(
        "--browser",
        type=Path,
        default=next(filter(None, map(shutil.which, BROWSERS)), None),
        metavar="FILE",
        help="a Chromium for the tests marked browser; by default the one that is installed",
    )
    parser.addoption(
        "--prepared",
        type=Path,
        metavar="FOLDER",
        help="a small prepared data set for tests on CUDA",
    )


def pytest_configure(config):
    for option in OUTSIDE.values():
        folder = config.getoption(option)
        if folder is not None and not folder.is_dir():
            raise pytest.UsageError(f"--{option}: there is no folder {folder}")
    browser = config.getoption("browser")
    if browser is not None and not Path(browser).is_file():
        raise pytest.UsageError(f"--browser: there is no file {browser}")


def pytest_collection_modifyitems(config, items):
    closed = {m for m, option in OUTSIDE.items() if config.getoption(option) is None}
    closed |= set() if torch.cuda.is_available() else {"cuda"}
    drives = config.getoption("browser") and importlib.util.find_spec("playwright")
    closed |= set() if drives else {"browser"}
    kept, left_out = [], []
    for item in items:
        (left_out if any(map(item.get_closest_marker, closed)) else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@pytest.fixture(scope="session")
def clips(request):
    """The folder of real clips, portraits and speech; for tests marked ``real``.

    What must lie in it stands in CONTRIBUTING.md.
    """
    folder = request.config.getoption("clips").resolve()
    for part in ("hdtf", "portraits", "speech", "varied", "voxceleb-mini"):
        if not (folder / part).is_dir():
            pytest.fail(f"--clips {folder} has no folder {part}: see CONTRIBUTING.md", False)
    return folder


@pytest.fixture(scope="session")
def papers(request):
    """The folder of the papers' texts; for tests marked ``papers``."""
    return request.config.getoption("papers").resolve()


@pytest.fixture(scope="session")
def _nobody_s(tmp_path_factory):
    return tmp_path_factory.mktemp("nobody-s")


@pytest.fixture(autouse=True)
def _alone(monkeypatch, _nobody_s):
    """No test reaches a hub, or finds weights, features or a lip reader of the user's."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    for name in ("WEIGHTS", "CACHE"):
        monkeypatch.setenv(f"THBENCH_{name}", str(_nobody_s / name.lower()))
    for name in ("LIPREADER", "MIRROR"):
        monkeypatch.delenv(f"THBENCH_{name}", raising=False)
