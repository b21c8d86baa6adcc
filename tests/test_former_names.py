"""Code written for former module names still imports."""

import importlib
import operator

import pytest

import free_jax
from free_jax import former_names


@pytest.mark.parametrize("old, new", former_names.MODULES.items())
def test_a_former_module_is_the_new_one(old, new):
    found = importlib.import_module(f"free_jax.{old}")
    assert found is importlib.import_module(f"free_jax.{new}")
    assert found.__spec__.name == f"free_jax.{new}"


@pytest.mark.parametrize("module", former_names.NAMES)
def test_a_former_name_is_the_new_one_and_says_so(module):
    found = importlib.import_module(f"free_jax.{module}")
    for old, new in former_names.NAMES[module].items():
        with pytest.warns(FutureWarning, match=rf"{old} is called {new} now"):
            assert getattr(found, old) is getattr(found, new)
        assert old not in getattr(found, "__all__", ())
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = found.nonsense


def test_former_attributes_are_there():
    for name in former_names.MODULES:
        assert operator.attrgetter(name)(free_jax) is not None
    network = free_jax.make_network("conv4", way=3, image_shape=(32, 32, 3))
    assert (network.num_classes, network.way) == (3, 3)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = free_jax.nonsense
