"""Few-shot heads on the answers of all teachers of a zoo: what knowing more is worth.

    python -m benchmarks.heads --zoo=ZOO --data=DIR/cifar_fs [--name=cifar_fs] [--test]

Nothing is trained.  Heads are chosen on the validation classes; ``--test`` measures
them on the test classes besides, to be looked at once.  Those that know that all
classes have equally many queries are marked.
``--uneven`` draws the classes' shares of the queries (Dirichlet of 2), which a head
that assumes equal ones does not expect.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.drawing import drawn_of
from experiments import inputs
from experiments.inputs.options import DataOptions
from free_jax import keys, panel
from free_jax.fewshot import heads
from free_jax.fewshot.episodes import sample_episode
from free_jax.zoo import load_zoo

WAY, QUERIES = 5, 15


def compared() -> dict[str, heads.Head]:
    """The heads, all transductive but for the first two."""
    found = {
        "nearest centroid (inductive)": heads.centered(
            heads.nearest_centroid(WAY), "none"
        ),
        "ridge (inductive)": heads.centered(heads.ridge(WAY), "none"),
    }
    for sharpness in (10.0, 20.0):
        for prior, mark in (("none", ""), ("estimated", " *"), ("balanced", " *")):
            head = heads.soft_kmeans(WAY, sharpness=sharpness, prior=prior)
            name = f"soft k-means, prior {prior}, sharpness {sharpness:.0f}{mark}"
            found[name] = heads.centered(head, "episode")
    return found


def accuracies(key, bank, *, shots: int, episodes: int, uneven: bool) -> np.ndarray:
    """Accuracy of each head on the same episodes, [heads, episodes], in percent."""
    found, total = compared(), WAY * QUERIES
    held = total if uneven else QUERIES

    def one(key):
        key_episode, key_share, key_class = jax.random.split(key, 3)
        episode = sample_episode(key_episode, bank, way=WAY, shots=shots, queries=held)
        index = jnp.arange(total)
        if uneven:
            share = jax.random.dirichlet(key_share, jnp.full(WAY, 2.0))
            labels = jax.random.choice(key_class, WAY, (total,), p=share)
            members = jax.nn.one_hot(labels, WAY, dtype=jnp.int32)
            # The n-th of its class is the n-th that the episode holds of it.
            index = labels * held + (members.cumsum(0) * members).sum(1) - 1
        queries, labels = episode.query_images[index], episode.query_labels[index]
        said = [
            head(episode.support_images, episode.support_labels, queries)
            for head in found.values()
        ]
        return jnp.stack([(x.argmax(1) == labels).mean() for x in said])

    run = jax.jit(lambda keys: jax.lax.map(one, keys))
    return 100 * np.asarray(run(jax.random.split(key, episodes))).T


def cell(values: np.ndarray, sign: str = "") -> str:
    """Mean and 95 % interval over episodes."""
    ci95 = 1.96 * values.std() / len(values) ** 0.5
    return f"{values.mean():{sign}.2f} +- {ci95:.2f} "


def main() -> None:
    """Prints a table for each split."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--zoo", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--name", default="")
    parser.add_argument("--image_size", type=int, default=0)
    parser.add_argument("--images_per_class", type=int, default=120)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--uneven", action="store_true")
    args = parser.parse_args()
    zoo = load_zoo(args.zoo)
    embed = panel.compiled_embedder(zoo.networks, temperature=args.temperature)
    data = DataOptions(
        name=args.name,
        path=args.data,
        image_size=args.image_size,
    )
    for split in ("val", "test") if args.test else ("val",):
        bank = inputs.evaluation_bank(
            data, split, way=WAY, images_per_class=5 + QUERIES, zoo=zoo
        )
        bank = drawn_of(bank, args.images_per_class)
        start = time.perf_counter()
        described = panel.embed_bank(lambda x: embed(zoo.teachers, x), bank)
        print(f"{split}: described in {time.perf_counter() - start:.0f} s")
        key = keys.named(jax.random.key(0), f"heads, {split}")
        found = {
            shots: accuracies(
                key, described, shots=shots, episodes=args.episodes, uneven=args.uneven
            )
            for shots in (1, 5)
        }
        names = list(compared())
        plain = names.index("soft k-means, prior none, sharpness 10")
        print(f"{'':50s} 1-shot          5-shot          against soft k-means, paired")
        for number, name in enumerate(names):
            row = [cell(found[s][number]) for s in (1, 5)]
            row += [cell(found[s][number] - found[s][plain], "+") for s in (1, 5)]
            print(f"{name:50s}", *row)
    print("* knows, or leans towards, that all classes have equally many queries")


if __name__ == "__main__":
    main()
