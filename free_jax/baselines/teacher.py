"""One teacher alone: its features, and its weights under a new head.

The features are those before the teacher's last layer; classes of an episode are told
apart by cosine to their class means (nearest centroid).  Which teacher: the first few
(the mean over them), or the one that agrees most with all others on images drawn
without data.
"""

import functools

import jax
import numpy as np

from free_jax import keys, panel
from free_jax.baselines import setting as setting_lib
from free_jax.baselines.setting import NotApplicable, Scores, Setting
from free_jax.fewshot import evaluation, initialization
from free_jax.inversion import dead_leaves
from free_jax.types import Answers
from free_jax.zoo.pool import Zoo


def one_teacher(setting: Setting, num_teachers: int = 5) -> Scores:
    """Nearest centroid on one teacher's features, mean over a few teachers."""
    group = setting_lib.teachers(setting).groups[0]
    count = min(num_teachers, group.num_teachers)
    return mean_over_teachers([features_of(setting, 0, i) for i in range(count)])


def central_teacher(setting: Setting) -> Scores:
    """Nearest centroid on the features of the teacher that `most_central` chooses."""
    zoo = setting_lib.teachers(setting)
    key = keys.named(setting.key, "most central teacher")
    chosen = setting.programs.once(
        "most central", lambda: most_central(key, zoo, setting.temperature)
    )
    return features_of(setting, *chosen)


def fine_tuned_teacher(setting: Setting, num_teachers: int = 3) -> Scores:
    """One teacher's trunk with a new head, adapted to each episode; mean over a few.

    Raises:
      NotApplicable: the first teachers are another network than the meta-model.
    """
    zoo = setting_lib.teachers(setting)
    if zoo.networks[0] != setting.student:
        raise NotApplicable(
            f"teachers are {zoo.networks[0].name}, the meta-model another network"
        )
    count = min(num_teachers, zoo.groups[0].num_teachers)
    starts = [
        initialization.from_teachers(zoo.teachers[0], "teacher", i)
        for i in range(count)
    ]
    return mean_over_teachers([setting_lib.adapted(setting, x) for x in starts])


def features_of(setting: Setting, group: int, row: int) -> Scores:
    """Nearest centroid on the features of the teacher in a row of a group."""
    zoo = setting_lib.teachers(setting)
    one = jax.tree.map(lambda x: x[row : row + 1], zoo.teachers[group])
    embed = setting.programs.features(zoo.networks[group])
    embedded = panel.embed_bank(functools.partial(embed, (one,)), setting.bank)
    classify = setting.programs.centroids(setting.way)
    return setting_lib.evaluate(setting, classify, None, embedded)


def mean_over_teachers(found: list[Scores]) -> Scores:
    """Averages several teachers within each episode.

    The interval is that of episodes: how much teachers differ is not in it.
    """
    return {
        name: evaluation.summarize(
            np.mean([scores[name].per_episode for scores in found], axis=0) / 100
        )
        for name in found[0]
    }


def most_central(
    key: jax.Array, zoo: Zoo, temperature: float, num_images: int = 500
) -> tuple[int, int]:
    """Group and row of the teacher that agrees most with all others, without data.

    Agreement is `panel.centrality` on dead leaves: forward queries only.
    """
    shape = zoo.networks[0].image_shape
    embed = panel.compiled_embedder(zoo.networks, temperature=temperature, mirror=False)
    images = draw_leaves(key, shape, num_images)
    said = np.asarray(embed(zoo.teachers, images))
    return zoo.locate(int(panel.centrality(Answers(said, zoo.columns)).argmax()))


def draw_leaves(key: jax.Array, shape: tuple[int, int, int], count: int) -> jax.Array:
    """Dead leaves [count, h, w, c] in [0, 1], see `inversion.dead_leaves`."""
    draw = jax.jit(jax.vmap(lambda k: dead_leaves.draw(k, shape)))
    return draw(jax.random.split(key, count))
