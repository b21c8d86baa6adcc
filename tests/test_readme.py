"""The README's example runs as it stands."""

import pathlib
import re

import jax
import numpy as np

import free_jax as fj

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_readme_example(tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S)[1]
    body = [line for line in code.splitlines() if line and "import" not in line]
    # A call may be folded over lines for reading; it is one statement.
    assert (
        len(re.sub(r"\(\n.*?\n\)", "()", "\n".join(body), flags=re.S).split("\n")) < 10
    )
    arch = fj.architecture("conv4", way=5, image_shape=(32, 32, 3), width=8)
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
