"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import inference
import pi_vae

MODULES = [
    name
    for package in (pi_vae, inference)
    for _, name, _ in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert failed == 0
