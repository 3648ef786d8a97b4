"""Networks too large for ``make test`` compute what they did: see ``tests.fingerprints``."""

import os
import subprocess
import sys

import pytest

from tests.fingerprints import LARGE

pytestmark = pytest.mark.paper


@pytest.mark.parametrize("name", LARGE)
def test_it_computes_what_it_did_under_the_same_version(name):
    """In a process of its own, whose memory goes with it."""
    command = [sys.executable, "-m", "tests.fingerprints", "--check", name]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert not done.returncode, done.stdout + done.stderr
