"""The README's examples run as they stand."""

import functools
import pathlib
import re

import jax
import numpy as np
import pytest

import free_jax as fj

ROOT = pathlib.Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


@pytest.mark.parametrize("width", [8, pytest.param(64, marks=pytest.mark.slow)])
def test_readme_example(tmp_path, monkeypatch, capsys, width):
    narrow = functools.partial(fj.models.Generator, width=width)
    monkeypatch.setattr(fj.models, "Generator", narrow)
    code = BLOCKS[0]
    body = [line for line in code.splitlines() if line and "import" not in line]
    # A call may be folded over lines for reading; it is one statement.
    assert (
        len(re.sub(r"\(\n.*?\n\)", "()", "\n".join(body), flags=re.S).split("\n")) < 10
    )
    arch = fj.make_network("conv4", num_classes=5, image_shape=(32, 32, 3), width=8)
    init = jax.jit(jax.vmap(arch.init))
    variables = init(jax.random.split(jax.random.key(0), 4))
    ids = np.stack([np.arange(5) + i for i in range(4)]).astype(np.int32)
    group = fj.ZooGroup(
        arch, fj.Teachers(variables, jax.numpy.asarray(ids)), np.full(4, np.nan)
    )
    fj.save_zoo(
        fj.Zoo((group,), tuple("abcdefgh")),
        tmp_path / "runs" / "demo" / "seed0" / "zoo",
    )
    monkeypatch.chdir(tmp_path)
    namespace = {}
    exec(compile(code, "README.md", "exec"), namespace)
    assert capsys.readouterr().out == "(3, 100, 32, 32, 3) (3, 100)\n"
    assert bool(namespace["info"].is_finite.all())


def test_readme_example_of_a_distilled_model(tmp_path, monkeypatch):
    images = jax.random.uniform(jax.random.key(0), (20, 32, 32, 3))
    arch = fj.make_network("conv4", num_classes=3 * 5, image_shape=(32, 32, 3), width=2)
    variables = fj.distilled.fit_statistics(
        arch,
        arch.init(jax.random.key(1)),
        images,
        weights=jax.numpy.ones(3),
        temperature=2.0,
    )
    file = tmp_path / "runs" / "demo" / "seed0" / "model.npz"
    file.parent.mkdir(parents=True)
    fj.save_model(file, arch, variables)
    monkeypatch.chdir(tmp_path)
    namespace = {
        "jax": jax,
        "fj": fj,
        "support_images": images[:5],
        "support_labels": jax.numpy.arange(5),
        "query_images": images[:5],
    }
    exec(compile(BLOCKS[1], "README.md", "exec"), namespace)
    # The support images themselves: each is closest to itself.
    for name in ("scores", "scores_of_adapted"):
        np.testing.assert_array_equal(namespace[name].argmax(-1), np.arange(5))
