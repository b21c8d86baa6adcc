"""Who recognises the images that a panel run recovered from each teacher.

    python -m benchmarks.recognition --workdir=runs/hub --zoo=ZOO

Of each teacher's images: the share that it gives the wanted class itself, in its own
size as they were recovered and in the one in which all teachers were asked; and the
mean of that share over the other teachers that know the class, beside what chance gives
them.  An inversion that convinces its own teacher alone is no picture of the class.
"""

import argparse
import itertools

import numpy as np

from experiments.harness.chunks import finished, read_chunk
from free_jax import inversion
from free_jax.zoo import load_zoo


def recognition(classes, owners, labels, columns, class_ids, teacher):
    """Shares of one teacher's images that it and the others take for their class.

    Args:
      classes: [n] that the images were recovered as.
      owners: [n] teachers of the images.
      labels: [T, n] what each teacher takes them for.
      columns: [T + 1] of the teachers' outputs.
      class_ids: [C] classes of the outputs.
      teacher: whose images.

    Returns:
      Own share, that of the others and their chance; nan where nobody else knows them.
    """
    mine = np.flatnonzero(owners == teacher)
    own = (labels[teacher, mine] == classes[mine]).mean()
    shares, chances = [], []
    for other in range(len(columns) - 1):
        known = class_ids[columns[other] : columns[other + 1]]
        judged = mine[np.isin(classes[mine], known)]
        if other != teacher and judged.size:
            shares.append((labels[other, judged] == classes[judged]).mean())
            chances.append(1 / len(known))
    if not shares:
        return own, np.nan, np.nan
    return own, np.mean(shares), np.mean(chances)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--zoo", required=True)
    args = parser.parse_args()
    zoo = load_zoo(args.zoo)
    recovered = [read_chunk(file) for file in finished(args.workdir, "recovered")]
    images = inversion.images_of(recovered)
    native = np.concatenate(
        [part["teacher_accuracy"] for part in recovered if "teacher_accuracy" in part]
    )
    parts = [read_chunk(file)["logits"] for file in finished(args.workdir, "described")]
    logits, columns, ids = np.concatenate(parts), zoo.columns, zoo.class_ids
    labels = np.stack(
        [ids[a + logits[:, a:b].argmax(1)] for a, b in itertools.pairwise(columns)]
    )
    owned = np.unique(images.owners[images.owners >= 0])
    print(f"{'':40s} own size  asked size  others  chance")
    rows = [
        (alone, *recognition(images.classes, images.owners, labels, columns, ids, t))
        for t, alone in zip(owned, native, strict=True)
    ]
    for teacher, row in zip(owned, rows, strict=True):
        print(f"{zoo.sources[teacher][:38]:40s}", *(f"{x:8.2f}" for x in row))
    print(f"{'mean':40s}", *(f"{x:8.2f}" for x in np.nanmean(rows, axis=0)))


if __name__ == "__main__":
    main()
