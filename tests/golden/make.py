"""Writes the metrics that the smallest run of each method ends with.

    python tests/golden/make.py TARGET.json [--workdir=DIR]

A move of code must not change them: on machines of the kind that made them they are
equal to 1e-4 or to the bit (`tests/test_golden.py`).  Kinds differ: products of
matrices are summed in blocks of the size of a processor's caches, and where Adam
divides a gradient that should be zero by its own size the last bit decides.  So there
is one file a kind in ``metrics/``, with what a few products give there (`probe`).  A
commit that changes the metrics on purpose says why and makes them anew.

Runs are compiled as tests are (`XLA_FLAGS`): a third of the time, and the same
operations on every machine.
"""

import argparse
import functools
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Without the last stage's optimisation, by the older emitter of fusions, and without
# fused multiply-adds, which not every machine has.  In one piece: what is split to be
# compiled by many threads costs more in all.
XLA_FLAGS = (
    "--xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
    " --xla_cpu_use_fusion_emitters=false"
    " --xla_cpu_max_isa=AVX"
)
ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "experiments" / "configs"
ZOO = [
    "--config=experiments/configs/pretrain_cifar_fs_conv4.py:smoke",
    "--config.pretrain.model.kwargs.width=4",
    "--config.pretrain.epochs=1",
]
SMALL = [
    "--config.student.kwargs.width=4",
    "--config.eval.episodes=8",
    "--config.eval.val_episodes=4",
    "--config.eval.queries=5",
]
# The rows of baselines are those of the run of that name.
ALONE = ["--config.eval.yardsticks=()"]
EPISODES = ["--config.replay.queries=5", "--config.learner.train_steps=1"]
GENERATOR = ["--config.generator.width=4"]
# Of `test_experiments` too.
FREE = [
    "--config.inversion.num_steps=2",
    "--config.inversion.images_per_class=6",
    "--config.learner.test_steps=2",
    *EPISODES,
    *GENERATOR,
]
# All but the one that draws two thousand images.
BASELINES = "--config.eval.baselines=" + repr(
    tuple("average ota dro teacher best finetune panel panel_heads".split())
)
WHITENED = "--config.eval.baselines=('panel_whitened',)"
FEW = "--config.eval.episodes=6"
RUNS = {
    "free": ("free_cifar_fs_5w1s.py:smoke", [*ALONE, *FREE]),
    "bidf": ("bidf_cifar_fs_5w1s.py:smoke", [*ALONE, *EPISODES, *GENERATOR]),
    "purer": ("purer_cifar_fs_5w1s.py:smoke", [*ALONE, *EPISODES]),
    "panel": ("panel_cifar_fs.py:smoke", [*ALONE, "--config.eval.shots=(5,)"]),
    "preinverted": (
        "preinverted_cifar_fs.py:smoke",
        [*ALONE, "--config.replay.queries=3"],
    ),
    "tgr": ("tgr_cifar_fs_5w1s.py:smoke", ALONE),
    "trustworthy": ("trustworthy_cifar_fs_5w1s.py:smoke", ALONE),
    "episodic": ("maml_real_cifar_fs.py:smoke", [*ALONE, *EPISODES]),
    "baselines": ("yardsticks_cifar_fs.py:smoke", [BASELINES, FEW]),
    "whitened": ("yardsticks_cifar_fs.py:smoke", [WHITENED, FEW]),
}


def command(name: str, workdir: pathlib.Path, zoo: pathlib.Path) -> list[str]:
    """The arguments of ``experiments/run.py`` for one method's run."""
    config, extra = RUNS[name]
    teachers = ["--config.zoo.pretrain.num_teachers=0"]
    teachers += [] if name == "episodic" else [f"--config.zoo.path={zoo}"]
    return [
        f"--config=experiments/configs/{config}",
        f"--workdir={workdir / name}",
        *SMALL,
        *extra,
        *teachers,
    ]


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess:
    """Calls ``experiments/run.py``; `options` are those of ``subprocess.run``."""
    script = str(ROOT / "experiments" / "run.py")
    line = [sys.executable, script, *arguments, "--distributed=off"]
    environment = {
        **os.environ,
        **options.pop("env", {}),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": XLA_FLAGS,
    }
    return subprocess.run(line, cwd=ROOT, env=environment, **options)


def collected(workdir: pathlib.Path) -> dict:
    """Metrics and accuracies of a finished run; nothing that depends on the clock."""
    metrics = workdir / "metrics.jsonl"  # Of a run without training there are none.
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    result = json.loads((workdir / "result.json").read_text())
    return {
        "metrics": [json.loads(line) for line in lines],
        "results": {
            name: {
                shots: {
                    protocol: cell[protocol]["mean"] if protocol != "skipped" else ""
                    for protocol in cell
                }
                for shots, cell in cells.items()
            }
            for name, cells in result["results"].items()
        },
        "meta_updates": result["meta_updates"],
        "images_recovered": result["images_recovered"],
    }


@functools.cache
def probe() -> str:
    """By which machines are told apart: a digest of products that runs make many of."""
    line = [sys.executable, __file__, "--probe"]
    # By itself, as the runs are: how many threads a process has counts too.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": XLA_FLAGS}
    told = subprocess.run(line, env=environment, check=True, capture_output=True)
    return told.stdout.decode().strip()


def _probe() -> str:
    rng, digest = np.random.default_rng(0), hashlib.sha256()
    for rows, inner, columns in ((96, 36, 4), (2048, 27, 4), (64, 800, 5)):
        a, b = rng.normal(size=(rows, inner)), rng.normal(size=(inner, columns))
        product = jax.jit(jnp.dot)(a.astype(np.float32), b.astype(np.float32))
        digest.update(np.asarray(product).tobytes())
    x = rng.normal(size=(8, 32, 32, 3)).astype(np.float32)
    w = rng.normal(size=(3, 3, 3, 4)).astype(np.float32)

    def loss(w: jax.Array) -> jax.Array:
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)
        return jnp.square(y).sum()

    for found in jax.jit(jax.value_and_grad(loss))(w):
        digest.update(np.asarray(found).tobytes())
    return digest.hexdigest()[:16]


def main() -> None:
    """Runs everything and writes one file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("target", nargs="?")
    parser.add_argument("--probe", action="store_true", help="print it, no more")
    parser.add_argument("--workdir")
    parser.add_argument("--only", help="names, separated by commas")
    args = parser.parse_args()
    if args.probe:
        print(_probe())
        return
    workdir = pathlib.Path(args.workdir or tempfile.mkdtemp(prefix="golden-"))

    run(*ZOO, f"--workdir={workdir / 'teachers'}", check=True)
    found = {}
    for name in args.only.split(",") if args.only else RUNS:
        run(*command(name, workdir, workdir / "teachers" / "zoo"), check=True)
        found[name] = collected(workdir / name)
    kept = {"probe": probe(), "runs": found}
    text = json.dumps(kept, indent=1, sort_keys=True) + "\n"
    pathlib.Path(args.target).write_text(text)


if __name__ == "__main__":
    main()
