"""Eight fake devices, strict numerics and the rules of the two marks."""

import gc
import os
import pathlib

from golden import make

# Read when the backend starts, so this has to come before the first array.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        make.XLA_FLAGS,
    ]
)

# Workers share the cores: threads of PyTorch would only wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import filelock
import hypothesis
import jax
import pytest

# What is compiled is kept up to here; JAX's own limit looks at every file for each one
# that is added, which took as long as the compilation.
CACHE_BYTES = 1 << 30
ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

jax.config.update("jax_default_matmul_precision", "highest")
# The library broadcasts over trailing channels by design (normalisation, biases).
jax.config.update("jax_numpy_rank_promotion", "allow")

hypothesis.settings.register_profile(
    "free_jax", max_examples=25, deadline=None, derandomize=True, database=None
)
hypothesis.settings.load_profile("free_jax")


def pytest_configure(config):
    """Tests that compile the same program share it, over all workers and runs.

    In build/, or, beside other copies of the code, in $FREE_JAX_TEST_CACHE.
    """
    if not os.environ.get("FREE_JAX_TEST_CACHE"):
        # Workers inherit it.
        os.environ["FREE_JAX_TEST_CACHE"] = str(ROOT / "build" / "test-cache")
        config.add_cleanup(lambda: os.environ.pop("FREE_JAX_TEST_CACHE"))
    folder = os.path.join(os.environ["FREE_JAX_TEST_CACHE"], "xla")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        remove_oldest(pathlib.Path(os.environ["FREE_JAX_TEST_CACHE"]))
    jax.config.update("jax_compilation_cache_dir", folder)
    # Small programs too: there are thousands of them, alike in all workers.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def remove_oldest(folder: pathlib.Path):
    """Empties a cache that has outgrown its limit to half of it, oldest files first."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    told = {path: path.stat() for path in files}
    size = sum(one.st_size for one in told.values())
    limit = CACHE_BYTES if size <= CACHE_BYTES else CACHE_BYTES // 2
    for path in sorted(files, key=lambda path: told[path].st_mtime):
        if size <= limit:
            return
        size -= told[path].st_size
        path.unlink()


def pytest_collection_finish():
    """Objects of imported modules stay: the garbage collector need not visit them.

    What tracing leaves grows to millions of objects, which take seconds to visit.
    """
    gc.set_threshold(20_000, 20, 20)
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def left_behind():
    """Nor what earlier files left, once their garbage is gone."""
    yield
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config, items):
    if not SHARED.is_dir():
        skip = pytest.mark.skip(reason=f"{SHARED} is missing")
        for item in items:
            if item.get_closest_marker("shared"):
                item.add_marker(skip)
    # On one worker one after the other: on two, one would wait for the other's run.
    items.sort(key=lambda item: "smoke_run" not in getattr(item, "fixturenames", ()))
    if "slow" not in config.getoption("markexpr"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        if slow:
            config.hook.pytest_deselected(items=slow)
            items[:] = [item for item in items if item not in slow]


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory):
    """``smoke_run(name)``: the folder of a finished small run, to read from.

    `name` is one of ``golden.make.RUNS``, or "teachers", whose ``zoo`` is the one that
    all of them use.  Made by the command line the first time that a test asks, as a
    reader would (on one device), and shared by the tests of all workers: a test that
    writes makes a copy of the folder.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "smoke"
    folder.mkdir(exist_ok=True)
    compiled = os.path.join(os.environ["FREE_JAX_TEST_CACHE"], "alone")
    environment = {
        "FREE_JAX_CACHE": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }

    def finished(name: str) -> pathlib.Path:
        with filelock.FileLock(folder / f"{name}.lock"):
            log = folder / f"{name}.log"
            if not log.exists():
                log.write_text("was interrupted")
                if name == "teachers":
                    line = [*make.ZOO, f"--workdir={folder / name}"]
                else:
                    line = make.command(name, folder, finished("teachers") / "zoo")
                line.append(f"--compilation_cache={compiled}")
                done = make.run(*line, env=environment, capture_output=True, text=True)
                log.write_text(done.stderr if done.returncode else "")
            if trouble := log.read_text():
                pytest.fail(f"the run {name} failed:\n{trouble}", pytrace=False)
        return folder / name

    return finished
