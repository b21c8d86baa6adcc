"""Eight fake devices, strict numerics and the rules of the two marks."""

import os
import pathlib
import tempfile

# Read when the backend starts, so this has to come before the first array.
# Compiling takes most of the tests' time: the last stage does without optimisation, and
# fusions are written by the older emitter, which takes less than half of XLA's time.
OUTSIDE = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = (
    OUTSIDE
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    + " --xla_cpu_use_fusion_emitters=false"
)

import hypothesis
import jax
import pytest

SHARED = pathlib.Path(__file__).resolve().parents[1].parent / "shared"

jax.config.update("jax_default_matmul_precision", "highest")
# The library broadcasts over trailing channels by design (normalisation, biases).
jax.config.update("jax_numpy_rank_promotion", "allow")

hypothesis.settings.register_profile(
    "free_jax", max_examples=25, deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile("free_jax")


def pytest_configure(config):
    """Tests that compile the same program share it.

    Each worker in its own folder, or, to keep programs between runs while working on
    the code, all in $FREE_JAX_TEST_CACHE.
    """
    kept = os.environ.get("FREE_JAX_TEST_CACHE")
    if not kept:
        folder = tempfile.TemporaryDirectory(prefix="free_jax-compiled-")
        config.add_cleanup(folder.cleanup)
    jax.config.update("jax_compilation_cache_dir", kept or folder.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def pytest_collection_modifyitems(config, items):
    if not SHARED.is_dir():
        skip = pytest.mark.skip(reason=f"{SHARED} is missing")
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(skip)
    if "slow" not in config.getoption("markexpr"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        if slow:
            config.hook.pytest_deselected(items=slow)
            items[:] = [item for item in items if item not in slow]


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
