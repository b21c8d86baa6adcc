"""What a choice of teachers by a few probe images buys, at an equal budget.

    python benchmarks/choosing_teachers.py --data=DIR/cifar_fs --zoo=DIR/teachers

A pool as it may be found: the zoo's teachers, copies of two of them and teachers that
were never trained.  K of them are chosen without data, by what all answer about a few
dead leaves (`panel.choose_from_zoo`), drawn at random, or the first of the shuffled
pool; a choice of fewer is the beginning of a choice of more.  Then those K alone
describe real images.  Ridge regression, inductive.  Means and their spread over pools
and probes that are drawn anew; episodes are the same.  Writes a table and JSON.
"""

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.drawing import drawn_of
from experiments import inputs
from experiments.configs import panel_cifar_fs
from experiments.harness import metrics
from free_jax import panel
from free_jax.fewshot import evaluation, heads
from free_jax.types import Teachers
from free_jax.zoo import Zoo, ZooGroup

METHODS = ("informative", "random", "first")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--zoo", required=True)
    parser.add_argument("--split", default="val", choices=("val", "test"))
    parser.add_argument("--copies", type=int, default=20, help="of two teachers")
    parser.add_argument("--untrained", type=int, default=10, help="at least 1")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 25])
    parser.add_argument("--probes", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--seeds", type=int, default=12, help="pools, at least 2")
    parser.add_argument("--images", type=int, default=100, help="of each class")
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--temperature", type=float, default=2.0)
    parser.add_argument("--json", default="choosing_teachers.json")
    return parser.parse_args()


def with_untrained(zoo: Zoo, count: int) -> Zoo:
    """A zoo of one network, and behind its teachers some that were never trained."""
    (group,) = zoo.groups
    stack = group.teachers
    made = jax.jit(jax.vmap(group.network.init))(
        jax.random.split(jax.random.key(0), count)
    )
    variables = jax.tree.map(
        lambda old, new: np.concatenate([old, new]), stack.variables, made
    )
    ids = np.concatenate([stack.class_ids, stack.class_ids[:count]])
    unknown = np.full(len(ids), np.nan)
    teachers = Teachers(variables, jnp.asarray(ids))
    return Zoo((ZooGroup(group.network, teachers, unknown),), zoo.class_names)


def drawn_pool(
    rng: np.random.Generator, trained: int, copies: int, untrained: int
) -> np.ndarray:
    """Who is in a pool, shuffled: all, and copies of two of the trained teachers."""
    twice = np.resize(rng.permutation(trained)[:2], copies)
    return rng.permutation(np.concatenate([np.arange(trained + untrained), twice]))


def of_rows(zoo: Zoo, rows: np.ndarray) -> Zoo:
    """Teachers of a zoo of one network in any order, as often as they are named."""
    (group,) = zoo.groups
    teachers = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)[rows]), group.teachers)
    unknown = np.full(len(rows), np.nan)
    return Zoo((ZooGroup(group.network, teachers, unknown),), zoo.class_names)


def orders(
    pool: Zoo, seed: int, most: int, probes: list[int]
) -> Iterator[tuple[str, np.ndarray]]:
    """(how, `most` rows of the pool in the order in which they were chosen)."""
    for by in METHODS:
        for number in probes if by == "informative" else probes[:1]:
            options = panel.ChoosingOptions(most, by, number)
            found = panel.choose_from_zoo(jax.random.key(seed), pool, options)
            chosen = [told for told in found.verdicts if told["place"] is not None]
            chosen.sort(key=lambda told: told["place"])
            how = f"{by}, {number} probes" if found.asked else by
            yield how, np.asarray([told["teacher"] for told in chosen])


def main() -> None:
    """Describes real images once by every teacher, and scores choices among them."""
    args = arguments()
    config = panel_cifar_fs.get_config()
    config.data.path, config.zoo.path = args.data, args.zoo
    zoo = inputs.load_zoo(config.zoo, config.data)
    whole = with_untrained(zoo, args.untrained)
    bank = described(args, whole)
    way = zoo.way
    head = heads.centered(heads.ridge(way), "none")
    classify = evaluation.head_classifier(lambda params, x: x, head, head)
    runs = {
        shots: evaluation.evaluator(
            classify, way=way, shots=shots, num_episodes=args.episodes
        )
        for shots in (1, 5)
    }

    def scores(rows: np.ndarray) -> dict[str, float]:
        """Of teachers by their numbers; a copy describes images once more."""
        outputs = (way * rows[:, None] + np.arange(way)).ravel()
        some = bank._replace(images=bank.images[..., outputs])
        return {
            f"{shots}-shot": run(jax.random.key(0), None, some)["inductive"].mean
            for shots, run in runs.items()
        }

    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed)
        numbers = drawn_pool(rng, zoo.num_teachers, args.copies, args.untrained)
        pool = of_rows(whole, numbers)
        # As if nothing but its own teachers had been there, for comparison.
        own = np.random.default_rng(seed).permutation(zoo.num_teachers)
        ways = list(orders(pool, seed, max(args.sizes), args.probes))
        ways = [(how, numbers[rows]) for how, rows in ways]
        for how, order in [*ways, ("random, of the zoo alone", own)]:
            for size in args.sizes:
                mine = order[:size]
                row = scores(mine) | {
                    "repeated": len(mine) - len(np.unique(mine)),
                    "untrained": int((mine >= zoo.num_teachers).sum()),
                }
                found.setdefault((size, how), []).append(row)
                print(seed, size, how, row, flush=True)
    table = [
        {"K": size, "teachers": how} | summary(rows, found[size, "random"])
        for (size, how), rows in sorted(found.items(), key=lambda item: item[0][0])
    ]
    title = (
        f"{args.split} classes, {args.episodes} episodes, {args.seeds} pools, ridge, "
        "inductive"
    )
    metrics.print_table(table, tuple(table[0]), title=title)
    every = [{"K": k, "teachers": how, "rows": x} for (k, how), x in found.items()]
    told = {"title": title, "table": table, "every": every}
    pathlib.Path(args.json).write_text(json.dumps(told, indent=1))


def described(args: argparse.Namespace, zoo: Zoo) -> Any:
    """The split's images as all teachers of a zoo describe them."""
    config = panel_cifar_fs.get_config()
    config.data.path = args.data
    split = inputs.load_split(config.data, args.split)
    bank = drawn_of(split, args.images)
    embed = panel.compiled_embedder(zoo.networks, temperature=args.temperature)
    return panel.embed_bank(lambda x: embed(zoo.teachers, x), bank, chunk=100)


def summary(rows: list[dict[str, Any]], drawn: list[dict[str, Any]]) -> dict[str, str]:
    """Means over pools; what accuracies are above those at random, pool by pool.

    Args:
      rows: of a way to choose, one a pool.
      drawn: of the random choice, of the same pools.
    """
    told = {}
    for name in rows[0]:
        values = np.asarray([row[name] for row in rows], float)
        told[name] = f"{values.mean():.1f}"
        if "shot" in name:
            told[name] = f"{values.mean():.2f} (sd {values.std(ddof=1):.2f})"
            more = values - [row[name] for row in drawn]
            error = more.std(ddof=1) / len(more) ** 0.5
            told[f"{name} over random"] = f"{more.mean():.2f} (se {error:.2f})"
    return told


if __name__ == "__main__":
    main()
