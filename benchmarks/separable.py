"""Whether recovered images show their classes to teachers that they are not of.

    python benchmarks/separable.py runs/tgr --zoo=DIR/teachers --data=DIR/cifar_fs

Nothing is trained: the first teachers describe the images that a run recovered from the
others, and real ones of the validation classes; episodes are told apart by the nearest
centroid, each query alone.  Near chance, there is nothing in an image from which a
meta-learner could learn its class.
"""

import argparse
import os
import pathlib

import jax
import numpy as np

from experiments import inputs
from experiments.inputs.options import DataOptions, ZooOptions
from free_jax import keys, panel
from free_jax import zoo as zoo_lib
from free_jax.fewshot import banks, evaluation
from free_jax.types import ImageBank

WAY, QUERIES = 5, 15


def bank_of_others(folder: str | os.PathLike[str], judges: int) -> ImageBank:
    """A run's recovered images by class, without those of the first teachers."""
    files = sorted((pathlib.Path(folder) / "recovered").glob("*.npz"))
    parts = [np.load(file) for file in files]
    images, classes, owners = (
        np.concatenate([part[name] for part in parts])
        for name in ("images", "classes", "owners")
    )
    images, classes = images[owners >= judges], classes[owners >= judges]
    counts = np.bincount(classes)
    rows = np.zeros((len(counts), counts.max(), *images.shape[1:]), np.uint8)
    for known, count in enumerate(counts):
        rows[known, :count] = images[classes == known]
    return banks.from_arrays(rows, counts)


def main() -> None:
    """Prints a line for each run, and one for real images."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--zoo", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--name", default="cifar_fs", help="of the data set")
    parser.add_argument("--judges", type=int, default=5, help="teachers that describe")
    parser.add_argument("--episodes", type=int, default=200)
    args = parser.parse_args()
    data = DataOptions(name=args.name, path=args.data)
    zoo = inputs.load_zoo(ZooOptions(path=args.zoo), data)
    # Of all groups together, as owners are numbered.
    zoo = zoo_lib.select(zoo, np.arange(args.judges))
    embed = panel.compiled_embedder(zoo.networks, temperature=4.0)
    run = evaluation.evaluator(
        evaluation.centroid_classifier(WAY, lambda params, x: x),
        way=WAY,
        shots=1,
        queries=QUERIES,
        num_episodes=args.episodes,
    )
    real = inputs.evaluation_bank(data, "val", way=WAY, images_per_class=1 + QUERIES)
    found = {name: bank_of_others(name, args.judges) for name in args.runs}
    for name, bank in {**found, "real validation images": real}.items():
        described = panel.embed_bank(lambda x: embed(zoo.teachers, x), bank)
        key = keys.named(jax.random.key(0), "separable")
        print(f"{name}: {run(key, None, described)['inductive']}", flush=True)


if __name__ == "__main__":
    main()
