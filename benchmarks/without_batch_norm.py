"""What may stand in for batch-norm statistics where a network has none.

    python -m benchmarks.without_batch_norm --zoo=ZOO

Of each teacher that gives gradients and has no batch norm, images are recovered from
dead leaves by the panel's recipe, which leaves cross-entropy and smoothness there, and
by it with one thing more.  A table says how often the teacher itself takes an image for
the class that it was asked for, and how often the other teachers that know the class
do, who had no part in it: an image that convinces its own teacher alone is no picture
of the class.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.recognition import recognition
from free_jax import augment, inversion, keys, objectives
from free_jax import zoo as zoo_lib
from free_jax.inversion import dead_leaves
from free_jax.inversion.objective import ObjectiveGradient, view, white_box
from free_jax.inversion.recipe import build_source, leaves_optimizer, suited
from free_jax.panel import compiled_embedder
from free_jax.panel.options import PIXELS
from free_jax.types import PyTree
from free_jax.zoo.network import Network

# ``(images [n, h, w, c] in [0, 1]) -> loss []``, added to the objective.
Prior = Callable[[jax.Array], jax.Array]


class One(NamedTuple):
    """A teacher with its network."""

    network: Network
    variables: PyTree


def one(zoo: zoo_lib.Zoo, row: int) -> One:
    """The teacher of a number over all groups."""
    place, inside = zoo.locate(row)
    group = zoo.groups[place]
    return One(group.network, zoo_lib.take(group.teachers, inside).variables)


def lent(lender: One, weight: float) -> Prior:
    """Batch-norm statistics of another teacher, of whatever classes."""
    objective = PIXELS.objective._replace(moments=weight)
    weight = inversion.objective.moments_weight(objective, lender.network)

    def prior(images: jax.Array) -> jax.Array:
        seen = augment.fit_to(images, lender.network.image_shape)
        _, moments = lender.network.apply_with_moments(lender.variables, seen)
        stats = lender.variables["batch_stats"]
        return weight * objectives.moment_matching(moments, stats, relative=True)

    return prior


def like_dead_leaves(key: jax.Array, teacher: One, weight: float) -> Prior:
    """Means and variances of features as dead leaves have them."""
    network = teacher.network
    shape = network.image_shape
    leaves = jax.vmap(lambda k: dead_leaves.draw(k, shape))(jax.random.split(key, 256))

    def statistics(images: jax.Array) -> PyTree:
        features = network.apply(teacher.variables, images, features=True)
        return {"f": {"mean": features.mean(0), "var": features.var(0)}}

    wanted = jax.device_get(jax.jit(statistics)(leaves))
    # A statistic of c channels adds a norm that grows as the root of c.
    scale = weight / len(wanted["f"]["mean"]) ** 0.5

    def prior(images: jax.Array) -> jax.Array:
        found = statistics(images)
        return scale * objectives.moment_matching(found, wanted, relative=True)

    return prior


def with_prior(
    gradient: ObjectiveGradient, prior: Prior, objective, network: Network
) -> ObjectiveGradient:
    """An objective with one term more, of the images as the teacher sees them."""

    def total(key, images, labels, teachers, adversary):
        loss, ce, grads = gradient(key, images, labels, teachers, adversary)
        more, pull = jax.value_and_grad(
            lambda images: prior(view(key, images, objective, network)[0])
        )(images)
        return loss + more, ce, grads + pull

    return total


def ways(key: jax.Array, teacher: One, lenders: list[One]) -> dict[str, dict]:
    """Name in the table to changes of the objective, and to a prior."""
    variation = PIXELS.objective.total_variation
    found: dict[str, dict] = {
        "as the panel does": {},
        "three times the smoothness": {"total_variation": 3 * variation},
        "ten times the smoothness": {"total_variation": 10 * variation},
        "crops of 8 pixels": {"crop_padding": 8},
        "features as of dead leaves": {"prior": like_dead_leaves(key, teacher, 1.0)},
    }
    for weight in (0.3, 1.0):
        priors = [lent(lender, weight) for lender in lenders]
        found[f"lent statistics, {weight:g}"] = {
            "prior": lambda images, priors=priors: sum(p(images) for p in priors)
        }
    return found


def recovered(key, zoo, row: int, labels: jax.Array, how: dict) -> tuple:
    """(images of one teacher, share that it recognises)."""
    teacher = one(zoo, row)
    recipe = suited(PIXELS, teacher.network)
    changes = {name: value for name, value in how.items() if name != "prior"}
    objective = recipe.objective._replace(**changes)
    gradient = white_box(objective, teacher.network)
    if "prior" in how:
        gradient = with_prior(gradient, how["prior"], objective, teacher.network)
    inverter = inversion.inverter(
        build_source(recipe, teacher.network),
        gradient,
        teacher.network,
        optimizer=leaves_optimizer(recipe),
        num_steps=recipe.num_steps,
    )
    place, inside = zoo.locate(row)
    teachers = zoo_lib.take(zoo.groups[place].teachers, inside)
    found, info, _ = jax.jit(inverter.invert)(key, (), teachers, labels)
    return found.images, float(info.teacher_accuracy)


def main() -> None:
    """Prints a row for each teacher and way, and each way's mean."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--zoo", required=True)
    parser.add_argument("--images_per_class", type=int, default=10)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--lenders", type=int, nargs="+", help="numbers in the zoo")
    parser.add_argument("--teachers", type=int, nargs="+", help="numbers in the zoo")
    args = parser.parse_args()
    zoo, key = zoo_lib.load_zoo(args.zoo), jax.random.key(0)
    gives = [one(zoo, row).network.gives for row in range(zoo.num_teachers)]
    bare = args.teachers or [
        row
        for row, has in enumerate(gives)
        if "moments" not in has and "gradients" in has
    ]
    lenders = args.lenders or [r for r, has in enumerate(gives) if "moments" in has][:1]
    ask = compiled_embedder(zoo.networks, output="logits", mirror=False)
    ids, columns = zoo.class_ids, zoo.columns
    rows: dict[str, list[tuple[float, float, float]]] = {}
    print(f"{'':34s}{'':30s} own  others  chance  seconds")
    for row in bare:
        teacher, mine = one(zoo, row), ids[columns[row] : columns[row + 1]]
        labels = jnp.tile(jnp.arange(len(mine)), args.images_per_class)
        key_of = keys.named(key, "teacher", row)
        lending = [one(zoo, lender) for lender in lenders]
        for name, how in ways(key_of, teacher, lending).items():
            clock = time.monotonic()
            images, own = recovered(key_of, zoo, row, labels, how)
            size = (args.image_size, args.image_size, 3)
            small = np.round(255 * np.asarray(augment.fit_to(images, size)))
            logits = np.asarray(ask(zoo.teachers, small.astype(np.uint8)))
            said = np.stack(
                [
                    ids[a + logits[:, a:b].argmax(1)]
                    for a, b in itertools.pairwise(columns)
                ]
            )
            # Who lent statistics is not asked what it thinks of them.
            known = ids.copy()
            for lender in lenders:
                known[columns[lender] : columns[lender + 1]] = -1
            owners = np.full(len(small), row)
            _, others, chance = recognition(
                mine[np.asarray(labels)], owners, said, columns, known, row
            )
            rows.setdefault(name, []).append((own, others, chance))
            shown = f"{own:6.2f}{others:8.2f}{chance:8.2f}"
            seconds = time.monotonic() - clock
            print(
                f"{zoo.sources[row][:32]:34s}{name:30s}{shown}{seconds:8.0f}",
                flush=True,
            )
    for name, found in rows.items():
        shown = "".join(f"{x:8.2f}" for x in np.nanmean(found, axis=0))
        print(f"{'mean':34s}{name:28s}{shown}")


if __name__ == "__main__":
    main()
