"""A built wheel reads and uses a model where the experiments' packages are missing."""

import importlib.metadata
import pathlib
import re
import subprocess
import sys
import sysconfig
import venv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import free_jax as fj
from free_jax import release

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Of the extra `experiments`, and needed by nothing that the library itself needs.
ABSENT = ("ml_collections", "matplotlib", "PIL", "tensorflow_datasets", "array_record")
# What the fresh environment runs.
USE = f"""
import importlib.util, pathlib, sys
import numpy as np
import free_jax as fj
from free_jax.interop import program_library

assert "site-packages" in fj.__file__, fj.__file__
for name in {ABSENT!r}:
    assert importlib.util.find_spec(name) is None, name
assert len(program_library._shipped()) > 20  # Package data.
folder = pathlib.Path(sys.argv[1])
arrays = np.load(folder / "pictures.npz")
model = fj.load_model(folder / "exported")
scores = fj.classify(*model, arrays["support"], arrays["labels"], arrays["pictures"])
np.save(folder / "scores.npy", scores)
zoo = fj.load_zoo(folder / "zoo")
assert zoo.num_teachers == 2
print(fj.__version__)
"""


def needed(lines, extras=("",), found=None):
    """The installed distributions that requirements come to, by name."""
    from packaging.requirements import Requirement

    found = {} if found is None else found
    for wanted in map(Requirement, lines):
        marker = wanted.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in extras):
            continue
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name not in found or wanted.extras:
            found[name] = importlib.metadata.distribution(name)
            needed(found[name].requires or (), ("", *wanted.extras), found)
    return found


def provide(distributions, site):
    """Links the packages of distributions, and of no others, into an environment."""
    for found in distributions:
        for file in found.files or ():
            top = pathlib.PurePosixPath(file).parts[0]
            if top in ("..", "__pycache__"):
                continue
            source = pathlib.Path(found.locate_file(top))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)


def built(folder):
    """The wheel of the repository."""
    line = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    line += ["--no-build-isolation", "--no-index", "-w", str(folder), str(ROOT)]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("free_jax-*.whl")
    return wheel


@pytest.mark.slow
def test_a_wheel_without_experiments_reads_an_exported_model(tmp_path):
    pytest.importorskip("packaging")
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip("building needs setuptools 77")
    wheel = built(tmp_path)
    env = tmp_path / "env"
    venv.create(env, with_pip=False)
    python = env / "bin" / "python"
    paths = {"base": str(env), "platbase": str(env)}
    site = pathlib.Path(sysconfig.get_path("purelib", vars=paths))
    unpack = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    unpack += ["--no-index", "--target", str(site), str(wheel)]
    subprocess.run(unpack, check=True, capture_output=True)
    (info,) = importlib.metadata.distributions(name="free_jax", path=[str(site)])
    provide(needed(info.requires or ()).values(), site)

    network = fj.make_network("conv4", num_classes=4, image_shape=(16, 16, 3), width=4)
    images = np.asarray(jax.random.uniform(jax.random.key(0), (12, 16, 16, 3)))
    variables = fj.distilled.fit_statistics(
        network,
        network.init(jax.random.key(1)),
        jnp.asarray(images),
        weights=jnp.ones(2),
        temperature=2.0,
    )
    release.export(tmp_path / "exported", network, variables)
    several = jax.vmap(network.init)(jax.random.split(jax.random.key(2), 2))
    ids = np.asarray([[0, 1, 2, 3], [2, 3, 4, 5]], np.int32)
    group = fj.ZooGroup(network, fj.Teachers(several, ids), np.full(2, np.nan))
    fj.save_zoo(fj.Zoo((group,), tuple("abcdef")), tmp_path / "zoo")
    labels = np.asarray([0, 1, 2, 3])
    given = {"support": images[:4], "labels": labels, "pictures": images[4:]}
    np.savez(tmp_path / "pictures.npz", **given)

    done = subprocess.run(
        [python, "-I", "-c", USE, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [fj.__version__]
    model = fj.load_model(tmp_path / "exported")
    wanted = fj.classify(*model, images[:4], labels, images[4:])
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), wanted, atol=1e-5)
