"""How well a student of the panel does, and the panel itself."""

import jax
import numpy as np

from benchmarks.robustness.defences import counts_of, weights_of
from benchmarks.robustness.measure import WAY, both, described
from benchmarks.robustness.world import Bench, World
from free_jax import make_network, panel
from free_jax.panel import DistillOptions, aggregate
from free_jax.panel import model as distilled


def student_of(bench: Bench, world: World, defence: str, seed: int) -> dict:
    """Distils a student and measures it."""
    args, weights = bench.args, weights_of(bench, world, defence, seed)
    answers, ids = world.answers, world.class_ids
    options = DistillOptions(batch_size=args.batch, fit_images=1000)
    if defence in ("median", "trimmed"):
        answers, ids = aggregate.aggregated(answers, ids, form=defence)
        found = panel.to_described(world.images, answers)
    else:
        kept = np.flatnonzero(weights)
        ids = ids[panel.outputs_of(answers.columns, kept)]
        answers = panel.answers_of(answers, kept)
        found = panel.to_described(
            world.images, answers, np.ones(len(kept), np.float32)
        )
        if defence.startswith("class heads"):
            options = options._replace(heads="class")
    found = found._replace(class_ids=ids)
    network = bench.group.network
    trunk = make_network(
        "conv4",
        num_classes=WAY,
        image_shape=network.image_shape,
        mean=network.mean,
        std=network.std,
        width=32,
    )
    key = jax.random.key(seed)
    made = panel.distil(key, found, trunk, options, args.steps)
    embed = jax.jit(lambda x: distilled.embed(made.network, made.variables, x))

    def rows(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(-1, *images.shape[2:])
        parts = [np.asarray(embed(flat[i : i + 200])) for i in range(0, len(flat), 200)]
        return np.concatenate(parts).reshape(*images.shape[:2], -1)

    images, patched = (x[len(x) // 2 :] for x in bench.real)
    found = both(rows(images), rows(patched), args.episodes, "ridge")
    return found | counts_of(weights, world.hostile) | {"seed": seed}


def panel_of(bench: Bench, world: World, defence: str, seed: int) -> dict:
    """The panel itself, by nearest centroid."""
    weights = weights_of(bench, world, defence, seed)
    classes = bench.real[0].shape[0]
    rows = [
        described(x, world.answers.columns, weights).reshape(
            classes, -1, world.real.shape[1]
        )[classes // 2 :]
        for x in (world.real, world.patched)
    ]
    found = both(*rows, bench.args.episodes, "centroid")
    return found | counts_of(weights, world.hostile) | {"seed": seed}
