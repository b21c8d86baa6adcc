"""What k of N teachers buy: chosen by the support set, or at random.

    python benchmarks/panel_size.py --data=DIR/cifar_fs --zoo=DIR/teachers [--split=val]

Every image is described once by all teachers; each row then listens to k of them:
those that tell an episode's support classes apart best (`panel.best_teachers`), or the
first k of a random order (mean over three orders).  Ridge regression, inductive.
Writes a table and JSON.
"""

import argparse
import functools
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from benchmarks.drawing import drawn_of
from experiments import inputs
from experiments.configs import panel_cifar_fs
from experiments.harness import metrics
from free_jax import panel
from free_jax.fewshot import evaluation, heads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--zoo", required=True)
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--images", type=int, default=100, help="of each class")
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 5, 10, 25, 50, 100])
    parser.add_argument("--json", default="panel_size.json")
    options = parser.parse_args()
    config = panel_cifar_fs.get_config()
    config.data.path, config.zoo.path = options.data, options.zoo
    zoo = inputs.load_zoo(config.zoo, config.data)
    split = inputs.load_split(config.data, options.split)
    bank = drawn_of(split, options.images)
    embed = panel.embedder(zoo.networks, temperature=options.temperature)
    embed = functools.partial(jax.jit(embed), zoo.teachers)
    bank = panel.embed_bank(embed, bank)
    total, way = zoo.num_teachers, zoo.way
    head = heads.centered(heads.ridge(way), "none")

    def score(head: heads.Head, shots: int) -> evaluation.Accuracy:
        run = evaluation.evaluator(
            evaluation.head_classifier(lambda params, x: x, head, head),
            way=way,
            shots=shots,
            num_episodes=options.episodes,
        )
        return run(jax.random.key(0), None, bank)["inductive"]

    def first(order: np.ndarray, size: int) -> heads.Head:
        mask = np.repeat(np.isin(np.arange(total), order[:size]), way)
        return lambda support, labels, queries: head(
            support * mask, labels, queries * mask
        )

    orders = [np.random.default_rng(seed).permutation(total) for seed in range(3)]
    rows = []
    for size in sorted({min(size, total) for size in options.sizes}):
        best = panel.best_teachers(head, way=way, columns=zoo.columns, keep=size)
        row = {"teachers": size}
        for shots in (1, 5):
            row[f"chosen, {shots}-shot"] = str(score(best, shots))
            drawn = [score(first(order, size), shots) for order in orders]
            mean = np.mean([d.mean for d in drawn])
            row[f"random, {shots}-shot"] = f"{mean:.2f}"
        rows.append(row)
        print(row, flush=True)
    title = f"{options.split} classes, {options.episodes} episodes, ridge, inductive"
    metrics.print_table(rows, tuple(rows[0]), title=title)
    pathlib.Path(options.json).write_text(json.dumps({"title": title, "rows": rows}))


if __name__ == "__main__":
    main()
