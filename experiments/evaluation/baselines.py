"""What a trained meta-model has to beat, under the same episodes."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from free_jax import baselines, keys, panel
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.fewshot import banks, evaluation, heads, initialization, learners
from free_jax.fewshot.evaluation import Accuracy
from free_jax.inversion import dead_leaves
from free_jax.types import ImageBank
from free_jax.zoo.network import Network

Scores = dict[str, Accuracy]

# Values of config.eval.yardsticks and the names in the table.
NAMES = {
    "random": "random initialisation",
    "average": "teacher average",
    "ota": "teachers fused by optimal transport (OTA)",
    "dro": "teachers fused by a robust hyper-network (DRO)",
    "teacher": "one teacher, centroids",
    "best": "most central teacher, centroids",
    "finetune": "one teacher, new head",
    "panel": "panel of all teachers, centroids",
    "panel_heads": "panel of all teachers, ridge / rounds",
    "panel_whitened": "panel of all teachers, whitened, ridge / rounds",
}


class Programs(NamedTuple):
    """What rows of a table have in common, so that each program is compiled once.

    Attributes:
      evaluator: `evaluation.evaluator`, one for equal classifiers and episodes.
      centroids: way to nearest centroid on descriptions.
      heads: way to the strongest head of each protocol on descriptions.
      features: architecture to ``((a stack of one teacher,), images) -> features``.
    """

    evaluator: Callable
    centroids: Callable[[int], evaluation.Classify]
    heads: Callable[[int], evaluation.Classify]
    features: Callable[[Network], Callable]


def programs() -> Programs:
    """None yet; make one for a report, whose end frees what was compiled."""
    return Programs(
        evaluator=functools.cache(evaluation.evaluator),
        centroids=functools.cache(evaluation.centroid_classifier),
        heads=functools.cache(_strongest_heads),
        features=functools.cache(_features),
    )


def _strongest_heads(way: int) -> evaluation.Classify:
    return evaluation.head_classifier(
        lambda params, x: x,
        heads.centered(heads.ridge(way), "none"),
        heads.centered(heads.soft_kmeans(way), "episode"),
    )


def _features(arch: Network) -> Callable:
    return jax.jit(panel.describer((arch,), output="features", mirror=False))


class Setting(NamedTuple):
    """One evaluation: the episodes every method sees.

    Attributes:
      key: the same key gives every method the same episodes.
      bank: images of the classes to evaluate on.
      way, shots, queries, num_episodes: of the episodes.
      map_tasks: how episodes are spread over devices.
      place: copies arrays to all devices.
      programs: shared by all methods.
    """

    key: jax.Array
    bank: ImageBank
    way: int
    shots: int
    queries: int
    num_episodes: int
    map_tasks: Callable
    place: Callable
    programs: Programs


class NotApplicable(Exception):
    """A yardstick that this zoo cannot give; the message says why."""


def evaluate(setting: Setting, classify: Callable, params: Any, bank=None) -> Scores:
    """Accuracy of a classifier on the setting's episodes."""
    run = setting.programs.evaluator(
        classify,
        way=setting.way,
        shots=setting.shots,
        queries=setting.queries,
        num_episodes=setting.num_episodes,
        map_tasks=setting.map_tasks,
    )
    # Arrays elsewhere than the last row's would be another program.
    params = setting.place(params)
    return run(setting.key, params, setting.bank if bank is None else bank)


def meta_model(setting: Setting, learner: learners.MetaLearner, params: Any) -> Scores:
    """A meta-model, adapted to each episode."""
    return evaluate(setting, evaluation.learner_classifier(learner), {"params": params})


def random_initialisation(
    setting: Setting, learner: learners.MetaLearner, seed: int
) -> Scores:
    """The same model and adaptation from random weights."""
    key = keys.named(jax.random.key(seed), "random initialisation")
    return meta_model(setting, learner, learner.init(key))


def average_params(student: Network, zoo: zoo_lib.Zoo) -> Any:
    """Mean of the teachers' parameters.

    Raises:
      NotApplicable: a teacher is not of the meta-model's architecture.
    """
    return jax.tree.map(lambda x: x.mean(0), _stacked(student, zoo, "averaged"))


def transported_params(student: Network, zoo: zoo_lib.Zoo) -> Any:
    """Mean of the teachers after their channels were matched to the first one's.

    The head's outputs mean other classes in each teacher and are averaged as they
    are, as `average_params` does.

    Raises:
      NotApplicable: no teacher is of the meta-model's architecture, or networks that
        cannot be aligned.
    """
    same = [i for i, arch in enumerate(zoo.architectures) if arch == student]
    if not same:
        raise NotApplicable(
            f"no teacher has the meta-model's architecture, {student.name}"
        )
    stacks = [jax.device_get(x.variables["params"]) for x in zoo.teachers]
    networks = [
        jax.tree.map(lambda x, i=i: x[i], stack)
        for stack, group in zip(stacks, zoo.groups, strict=True)
        for i in range(group.num_teachers)
    ]
    reference = jax.tree.map(lambda x: x[0], stacks[same[0]])
    try:
        return baselines.fuse(networks, reference)
    except InputError as error:
        raise NotApplicable(str(error)) from None


def robust_params(
    student: Network, zoo: zoo_lib.Zoo, key: jax.Array, num_steps: int = 300
) -> Any:
    """The initialisation that DRO fusion predicts, see `fusion.hypernetwork`.

    Raises:
      NotApplicable: as `average_params`.
    """
    rows, unravel = baselines.flatten(
        _stacked(student, zoo, "predicted by one network")
    )
    algorithm = baselines.robust_hypernetwork()

    @jax.jit
    def fit(rows: jax.Array) -> jax.Array:
        key_init, key_steps = jax.random.split(key)
        state, _ = jax.lax.scan(
            lambda state, k: algorithm.step(k, state, rows),
            algorithm.init(key_init, rows),
            jax.random.split(key_steps, num_steps),
        )
        return algorithm.model(state)["params"]

    return unravel(fit(rows))


def _stacked(student: Network, zoo: zoo_lib.Zoo, what: str) -> Any:
    others = [arch.name for arch in zoo.architectures if arch != student]
    if others:
        raise NotApplicable(
            f"weights of {', '.join(others)} and {student.name} cannot be {what}"
        )
    stacks = [teachers.variables["params"] for teachers in zoo.teachers]
    return jax.tree.map(lambda *x: np.concatenate(x), *stacks)


def most_central(
    zoo: zoo_lib.Zoo, temperature: float, key: jax.Array, num_scenes: int = 500
) -> tuple[int, int]:
    """Group and index of the teacher that agrees most with all others, without data.

    Agreement is `panel.centrality` on synthetic scenes: forward queries only.
    """
    shape = zoo.architectures[0].image_shape
    describe = panel.describer(zoo.architectures, temperature=temperature, mirror=False)
    images = _scenes(key, shape, num_scenes)
    said = np.asarray(jax.jit(describe)(zoo.teachers, images))
    best = int(panel.centrality(said.reshape(num_scenes, -1, zoo.way)).argmax())
    for number, group in enumerate(zoo.groups):
        if best < group.num_teachers:
            return number, best
        best -= group.num_teachers
    raise AssertionError("more answers than teachers")


def _scenes(key: jax.Array, shape: tuple[int, int, int], count: int) -> jax.Array:
    draw = jax.jit(jax.vmap(lambda k: dead_leaves.draw(k, shape)))
    return draw(jax.random.split(key, count))


def central_teacher(setting: Setting, zoo: zoo_lib.Zoo, chosen: tuple[int, int]):
    """Nearest centroid on the features of one chosen teacher (group, index)."""
    return _teacher_features(setting, zoo, *chosen)


def one_teacher(setting: Setting, zoo: zoo_lib.Zoo, num_teachers: int = 5) -> Scores:
    """Nearest centroid on one teacher's features, mean over a few teachers."""
    num_teachers = min(num_teachers, zoo.groups[0].num_teachers)
    found = [_teacher_features(setting, zoo, 0, i) for i in range(num_teachers)]
    return _mean_over_teachers(found)


def _teacher_features(setting: Setting, zoo: zoo_lib.Zoo, group: int, i: int) -> Scores:
    arch, teachers = zoo.architectures[group], zoo.teachers[group]
    one = jax.tree.map(lambda x: x[i : i + 1], teachers)
    describe = functools.partial(setting.programs.features(arch), (one,))
    return whole_panel(setting, panel.describe_bank(describe, setting.bank))


def fine_tuned_teacher(
    setting: Setting,
    learner: learners.MetaLearner,
    student: Network,
    zoo: zoo_lib.Zoo,
    num_teachers: int = 3,
) -> Scores:
    """One teacher with a new head, adapted like a meta-model; mean over a few."""
    if zoo.architectures[0] != student:
        raise NotApplicable(
            f"teachers are {zoo.architectures[0].name}, the meta-model another network"
        )
    found = [
        meta_model(
            setting,
            learner,
            initialization.from_teachers(zoo.teachers[0], "teacher", i),
        )
        for i in range(min(num_teachers, zoo.groups[0].num_teachers))
    ]
    return _mean_over_teachers(found)


def _mean_over_teachers(found: list[Scores]) -> Scores:
    # Teachers are averaged within each episode, so the interval is that of episodes.
    return {
        name: evaluation.summarize(
            np.mean([scores[name].per_episode for scores in found], axis=0) / 100
        )
        for name in found[0]
    }


def whole_panel(setting: Setting, described: ImageBank) -> Scores:
    """Nearest centroid on what all teachers say about an image, see `panel`."""
    classify = setting.programs.centroids(setting.way)
    return evaluate(setting, classify, None, described)


def panel_heads(setting: Setting, described: ImageBank) -> Scores:
    """The same descriptions with the strongest head of each protocol.

    Inductive: ridge regression on the support set. Transductive: centroids refined by
    the queries' own soft assignments.
    """
    return evaluate(setting, setting.programs.heads(setting.way), None, described)


def panel_whitened(
    setting: Setting,
    describe: Callable[[jax.Array], jax.Array],
    described: ImageBank,
    key: jax.Array,
    shape: tuple[int, int, int],
    *,
    num_scenes: int = 2000,
    strength: float = 0.5,
) -> Scores:
    """`panel_heads` on descriptions whitened by what is said about synthetic scenes.

    Args:
      setting: the episodes.
      describe: ``images [n, h, w, c] -> [n, d]``, compiled, as the bank was described.
      described: descriptions of the evaluation's images.
      key: draws the scenes.
      shape: of a scene.
      num_scenes: how many are described.
      strength: see `heads.whitening`.

    Raises:
      NotApplicable: descriptions are too long for a matrix of their square.
    """
    size = described.images.shape[-1]
    if size > heads.MOST_WHITENED:
        raise NotApplicable(
            f"{size} outputs of all teachers, of which at most {heads.MOST_WHITENED} "
            "can be whitened"
        )
    drawn = np.asarray(_scenes(key, shape, num_scenes))[None]
    bank = banks.from_arrays(drawn, np.asarray([num_scenes]))
    said = panel.describe_bank(describe, bank).images[0]
    mean, matrix = heads.whitening(said, strength)
    white = heads.whiten(described.images.reshape(-1, size), mean, matrix)
    white = white.reshape(described.images.shape)
    return panel_heads(setting, described._replace(images=white))
