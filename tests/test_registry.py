"""The registry: lazy, checked, and helpful about names."""

import subprocess
import sys

import pytest

from thbench.core.errors import UserError
from thbench.core.registry import Registry, resolve


def test_a_registered_class_is_imported_when_it_is_loaded():
    registry = Registry("thing", "collections.abc:Mapping")
    registry.add("dict", "collections:OrderedDict")
    registry.add("broken", "no_such_module:Thing")
    assert registry.load("dict").__name__ == "OrderedDict"
    assert list(registry) == ["dict", "broken"]


def test_duplicates_are_rejected():
    registry = Registry("thing", "builtins:object")
    registry.add("a", "x:Y")
    with pytest.raises(ValueError, match="registered twice"):
        registry.add("a", "x:Z")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("collections", "module:Class"),
        ("colections:OrderedDict", "no module 'colections'"),
        ("collections:OrderdDict", "Did you mean 'OrderedDict'"),
        ("collections:Counter", "is no OrderedDict"),
    ],
)
def test_a_wrong_target_says_what_is_wrong(target, message):
    from collections import OrderedDict

    with pytest.raises(UserError, match=message):
        resolve(target, OrderedDict)


def test_an_unknown_name_gets_the_nearest():
    registry = Registry("metric", "builtins:object")
    registry.add("psnr", "x:Y")
    with pytest.raises(UserError, match=r"No metric 'pnsr'\. Did you mean 'psnr'"):
        registry.load("pnsr")


def test_help_and_the_light_modules_import_no_torch():
    code = (
        "import sys, thbench.config, thbench.generation.plans, thbench.core.registry\n"
        "import thbench.cli.parser\n"
        "assert not {'torch', 'lightning', 'cv2'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
