"""What shorter descriptions cost: sketches of a distilled model's.

    python benchmarks/sketches.py --model=WORKDIR --data=DIR --name=cifar_fs

Rows are what the model of a panel run says, whitened (what a run reports), sketched to
k numbers before or after whitening, its leading directions, and the trunk's features,
which are bounded by themselves. Ridge head and nearest centroid, each query alone;
differences to the first row are paired. Validation classes; test classes are not looked
at.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.drawing import drawn_of
from benchmarks.heads import cell
from experiments import inputs
from experiments.inputs.options import DataOptions
from free_jax import distilled, images, keys, load_model, panel
from free_jax.fewshot import heads
from free_jax.fewshot.episodes import sample_episode
from free_jax.panel import sketch
from free_jax.types import ImageBank

WAY, QUERIES = 5, 15


def accuracies(
    key: jax.Array, bank: ImageBank, shots: int, episodes: int
) -> np.ndarray:
    """[2, episodes] per cent: ridge, and nearest centroid."""
    found = (heads.centered(heads.ridge(WAY), "none"), heads.nearest_centroid(WAY))

    def one(key: jax.Array) -> jax.Array:
        drawn = sample_episode(key, bank, way=WAY, shots=shots, queries=QUERIES)
        given = drawn.support_images, drawn.support_labels, drawn.query_images
        said = [head(*given) for head in found]
        return jnp.stack([(x.argmax(1) == drawn.query_labels).mean() for x in said])

    run = jax.jit(lambda keys: jax.lax.map(one, keys))
    return 100 * np.asarray(run(jax.random.split(key, episodes))).T


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--name", default="")
    parser.add_argument("--images_per_class", type=int, default=60)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--lengths", default="64,128,256")
    args = parser.parse_args()
    network, variables, _ = load_model(args.model)
    data = DataOptions(name=args.name, path=args.data)
    bank = inputs.evaluation_bank(
        data, "val", way=WAY, images_per_class=5 + QUERIES, zoo=None
    )
    bank = drawn_of(bank, args.images_per_class)
    how = dict(variables["descriptions"])
    plain = {**variables, "descriptions": {
        k: v for k, v in how.items() if k not in ("mean", "whitening", "outside")
    }}  # fmt: skip
    raw = jax.jit(functools.partial(distilled.embed, network, plain))
    rows = panel.embed_bank(raw, bank)
    count = rows.images.shape[-1]

    def whitened(x: jax.Array) -> jax.Array:
        return heads.whiten(x, how["mean"], how["whitening"], how.get("outside"))

    def features(x: jax.Array) -> jax.Array:
        views = images.fit_to(images.to_float(x), network.image_shape)
        return network.apply(variables, views, features=True) + network.apply(
            variables, views[:, :, ::-1], features=True
        )

    def told(fn) -> ImageBank:
        shape = rows.images.shape
        flat = jax.jit(fn)(rows.images.reshape(-1, shape[-1]))
        return rows._replace(images=flat.reshape(*shape[:2], -1))

    kinds = {f"all {count}, whitened": told(whitened), f"all {count}": rows}
    for length in map(int, args.lengths.split(",")):
        drawn = sketch.draw(jax.random.key(0), count, length)
        shorter = functools.partial(sketch.apply, drawn)
        kinds[f"whitened, then {length}"] = told(lambda x, s=shorter: s(whitened(x)))
        kinds[f"{length}, not whitened"] = told(shorter)
        if "outside" not in how:
            # It shrinks the directions of most variance most: they are its first.
            leading = jnp.linalg.eigh(how["whitening"])[1][:, :length]
            kinds[f"whitened, {length} leading directions"] = told(
                lambda x, u=leading: whitened(x) @ u
            )
    trunk = panel.embed_bank(jax.jit(features), bank)
    kinds[f"the trunk's {trunk.images.shape[-1]}"] = trunk
    key = keys.named(jax.random.key(0), "sketches")
    first: dict[int, np.ndarray] = {}
    print("| descriptions | 1-shot ridge | centroid | 5-shot ridge | centroid |")
    print("|---|---|---|---|---|")
    for name, kind in kinds.items():
        cells = []
        for shots in (1, 5):
            found = accuracies(key, kind, shots, args.episodes)
            base = first.setdefault(shots, found)
            for mine, other in zip(found, base, strict=True):
                less = f"({(mine - other).mean():+.2f})" if mine is not other else ""
                cells.append(cell(mine) + less)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
