"""All teachers together, nothing trained: few-shot heads on their outputs.

An image is embedded by the tempered softmax of every teacher, side by side (see
`panel.embedder`); a head then classifies the queries of an episode by the support
set's embeddings.  Images are embedded once, whatever the episodes and the head.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np

from free_jax import keys, panel
from free_jax.baselines import setting as setting_lib
from free_jax.baselines.setting import Scores, Setting
from free_jax.baselines.teacher import draw_leaves
from free_jax.fewshot import banks, evaluation, heads
from free_jax.types import ImageBank


def centroids(setting: Setting) -> Scores:
    """Nearest centroid on all teachers' outputs."""
    return classified(setting, setting.programs.centroids(setting.way))


def ridge_and_soft_kmeans(setting: Setting) -> Scores:
    """The strongest head of each protocol on all teachers' outputs.

    Inductive: ridge regression on the support set.  Transductive: soft k-means, class
    means refined by the queries' own soft assignments (Ren et al., ICLR 2018).
    """
    return classified(setting, setting.programs.heads(setting.way))


def whitened(
    setting: Setting, *, num_images: int = 2000, strength: float = 0.5
) -> Scores:
    """`ridge_and_soft_kmeans` on embeddings whitened by those of dead leaves.

    Directions in which answers vary anyway, whatever the image, are shrunk.

    Args:
      setting: teachers and episodes.
      num_images: dead leaves that are embedded.
      strength: see `heads.whitening`.
    """
    raw = embedded(setting)
    size = raw.images.shape[-1]

    def make() -> ImageBank:
        network = setting.student or setting_lib.teachers(setting).networks[0]
        key = keys.named(setting.key, "whitening scenes")
        drawn = np.asarray(draw_leaves(key, network.image_shape, num_images))[None]
        bank = banks.from_arrays(drawn, np.asarray([num_images]))
        said = panel.embed_bank(_embed(setting), bank).images[0]
        fitted = heads.fit_whitening(said, strength)
        white = heads.whiten(
            raw.images.reshape(-1, size),
            fitted["mean"],
            fitted["whitening"],
            fitted.get("outside"),
        )
        return raw._replace(images=white.reshape(raw.images.shape))

    name = f"whitened by {num_images} images, strength {strength}"
    bank = setting.programs.once(name, make)
    classify = setting.programs.heads(setting.way)
    return setting_lib.evaluate(setting, classify, None, bank)


def classified(setting: Setting, classify: evaluation.Classify) -> Scores:
    """Any classifier of embeddings, on all teachers' outputs.

    Args:
      setting: teachers and episodes.
      classify: as `evaluation.head_classifier` makes of two heads, with
        ``lambda params, x: x`` to embed.
    """
    return setting_lib.evaluate(setting, classify, None, embedded(setting))


def embedded(setting: Setting) -> ImageBank:
    """The setting's bank with embeddings [C, M, d] in place of images."""
    setting_lib.teachers(setting)
    return setting.programs.once(
        "embedded", lambda: panel.embed_bank(_embed(setting), setting.bank)
    )


def _embed(setting: Setting) -> Callable[[jax.Array], jax.Array]:
    """``images -> [n, d]`` by all teachers, one program for all banks."""
    zoo = setting_lib.teachers(setting)
    embedder = setting.programs.once(
        "embed",
        lambda: panel.compiled_embedder(
            zoo.networks,
            temperature=setting.temperature,
            map_tasks=setting.map_tasks,
        ),
    )
    return functools.partial(embedder, zoo.teachers)
