"""Each teacher of a zoo alone, and all of them together, as few-shot classifiers.

    python -m benchmarks.single_teachers --zoo=ZOO --data=DIR/cifar_fs --image_size=32

Nothing is trained: images are described by the tempered softmax of one teacher or of
all, queries told apart by the nearest centroid, each alone.  The best teacher is the
one that is best on the validation classes; its figures on test classes stand beside.
"""

import argparse
import itertools

import jax
import numpy as np

from experiments import inputs
from experiments.inputs.options import DataOptions
from free_jax import keys, panel
from free_jax.fewshot import evaluation
from free_jax.zoo import load_zoo

WAY, QUERIES = 5, 15


def accuracies(key, bank, columns, *, shots, episodes):
    """Inductive accuracy of each teacher, and of all of them last."""
    classify = evaluation.centroid_classifier(WAY, lambda params, x: x)
    # One program for the teachers of each number of classes.
    run = evaluation.evaluator(
        classify, way=WAY, shots=shots, queries=QUERIES, num_episodes=episodes
    )
    images = np.asarray(bank.images)
    parts = [images[..., a:b] for a, b in itertools.pairwise(columns)]
    return [
        run(key, None, bank._replace(images=part))["inductive"]
        for part in [*parts, images]
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--zoo", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image_size", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--temperature", type=float, default=4.0)
    args = parser.parse_args()
    zoo = load_zoo(args.zoo)
    embed = panel.compiled_embedder(zoo.networks, temperature=args.temperature)
    data = DataOptions(path=args.data, image_size=args.image_size)
    found = {}
    for split in ("val", "test"):
        bank = inputs.evaluation_bank(
            data, split, way=WAY, images_per_class=5 + QUERIES, zoo=zoo
        )
        described = panel.embed_bank(lambda x: embed(zoo.teachers, x), bank)
        key = keys.named(jax.random.key(0), f"single teachers, {split}")
        for shots in (1, 5):
            found[split, shots] = accuracies(
                key, described, zoo.columns, shots=shots, episodes=args.episodes
            )
    names = [*zoo.sources, "all of them"]
    print(f"{'':40s} val 1-shot   5-shot       test 1-shot  5-shot")
    for row, name in enumerate(names):
        cells = [found[s, k][row] for s in ("val", "test") for k in (1, 5)]
        print(f"{name[:38]:40s}", *(f"{c.mean:.1f} +- {c.ci95:.1f} " for c in cells))
    for shots in (1, 5):
        means = [cell.mean for cell in found["val", shots][:-1]]
        best = int(np.argmax(means))
        print(
            f"best by validation classes, {shots}-shot: {names[best]}, test "
            f"{found['test', shots][best].mean:.1f}; mean of all single teachers "
            f"{np.mean([c.mean for c in found['test', shots][:-1]]):.1f}"
        )


if __name__ == "__main__":
    main()
