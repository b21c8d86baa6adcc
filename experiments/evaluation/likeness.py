"""How alike teachers see the same images, as points in a plane and as a number.

Teachers of different classes have no common space.  What they have in common are the
images: a teacher sees an image by how alike it finds it to each of the others (the
cosine of its centred log-probabilities), so that a row is as long as there are images,
whatever the teacher's classes.

Reference:
  Kriegeskorte et al., "Representational similarity analysis", Frontiers in Systems
  Neuroscience 2008.
"""

import itertools

import numpy as np

from experiments.evaluation.samples import Samples
from free_jax import panel
from free_jax.types import Answers


def views(logits: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """[T, m, m] of answers [m, C]: how alike each teacher finds two images, in [-1, 1].

    >>> one = np.asarray([[9.0, 0.0], [8.0, 0.0], [0.0, 9.0]])
    >>> views(one, np.asarray([0, 2])).round().astype(int)[0].tolist()
    [[1, 1, -1], [1, 1, -1], [-1, -1, 1]]
    """
    found = []
    for start, stop in itertools.pairwise(columns):
        said = _log_probabilities(logits[:, start:stop])
        said = said - said.mean(0)
        said = said / np.maximum(np.linalg.norm(said, axis=1, keepdims=True), 1e-9)
        found.append(said @ said.T)
    return np.stack(found)


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def in_a_plane(points: np.ndarray) -> np.ndarray:
    """[n, 2] of points [n, d], by t-SNE.

    Raises:
      ImportError: scikit-learn is missing.
      ValueError: there are too few points.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise ImportError(
            "scikit-learn is missing: pip install scikit-learn, then make the page anew"
        ) from None
    if len(points) < 6:
        raise ValueError(f"{len(points)} points are too few")
    perplexity = min(30.0, (len(points) - 1) / 3)
    # Half of the usual iterations: 656 points kept as many of their ten neighbours.
    tsne = TSNE(perplexity=perplexity, max_iter=500, random_state=0)
    return tsne.fit_transform(points)


def alike(sample: Samples) -> np.ndarray:
    """[T] how alike each teacher's view is to that of all others, see `centrality`."""
    columns = sample.columns
    parts = [
        _log_probabilities(sample.logits[:, start:stop])
        for start, stop in itertools.pairwise(columns)
    ]
    return panel.centrality(Answers(np.concatenate(parts, axis=1), columns))
