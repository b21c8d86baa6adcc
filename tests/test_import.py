"""What `import free_jax` pulls in, and what it does not."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
HEAVY = (
    "torch",
    "torchvision",
    "tensorflow",
    "tensorflow_datasets",
    "tensorstore",
    "orbax",
    "absl.flags",
    "ml_collections",
    "safetensors",
    "array_record",
    "matplotlib",
    "aiohttp",
    "onnx",
    "onnxruntime",
    "orjson",
    "sqlite3",
    "PIL",
)


def fresh(code):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_is_light_and_starts_no_backend():
    # What flax itself imports is not ours to prevent.
    code = (
        "import sys, jax, flax.linen, optax; before = set(sys.modules);"
        "import free_jax;"
        f"print(*[m for m in {HEAVY} if m in sys.modules and m not in before]);"
        "from jax._src import xla_bridge;"
        "assert not xla_bridge.backends_are_initialized()"
    )
    assert fresh(code) == []


def test_every_module_imports_without_a_backend_torch_or_experiments():
    code = (
        "import pkgutil, sys, free_jax;"
        "names = [m.name for m in pkgutil.walk_packages(free_jax.__path__,"
        " 'free_jax.')];"
        "[__import__(name) for name in names];"
        "assert len(names) > 20, names;"
        "assert 'torch' not in sys.modules;"
        "assert not [m for m in sys.modules if m.split('.')[0] == 'experiments'];"
        "from jax._src import xla_bridge;"
        "assert not xla_bridge.backends_are_initialized()"
    )
    fresh(code)


def test_public_names_exist():
    import free_jax

    for name in free_jax.__all__:
        assert hasattr(free_jax, name), name
    assert sorted(free_jax.__all__) == sorted(set(free_jax.__all__))


def test_experiments_without_their_extra_say_so_in_one_line(monkeypatch):
    import importlib

    import experiments

    def absent(name, package=None):
        return None if name == "ml_collections" else object()

    with monkeypatch.context() as context:
        context.setattr("importlib.util.find_spec", absent)
        with pytest.raises(SystemExit) as refused:
            importlib.reload(experiments)
    importlib.reload(experiments)
    told = str(refused.value)
    assert told.startswith("error: experiments need ml_collections; run")
    assert "-e '.[experiments]'" in told and "\n" not in told
