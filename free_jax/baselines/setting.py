"""What every baseline is given: episodes, teachers, and what rows of a table share."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax

from free_jax import keys, panel, parallel, rows
from free_jax.fewshot import evaluation, heads
from free_jax.fewshot.evaluation import Accuracy
from free_jax.fewshot.learners import MetaLearner
from free_jax.types import ImageBank, PyTree
from free_jax.zoo.network import Network
from free_jax.zoo.pool import Zoo, in_memory

# Accuracy by protocol, "transductive" and "inductive".
Scores = dict[str, Accuracy]
_T = TypeVar("_T")
# Bytes of weights that are read for a baseline that needs those of all teachers.
_MOST = 8e9


class NotApplicable(Exception):
    """These teachers, or this setting, cannot give a baseline; the message says why."""


class Programs(NamedTuple):
    """What rows of one table share, so that it is compiled or computed once.

    Attributes:
      evaluator: `evaluation.evaluator`, one for equal classifiers and episodes.
      centroids: number of classes to nearest centroid on descriptions.
      heads: number of classes to ridge and soft k-means on descriptions.
      features: network to ``((a stack of one teacher,), images) -> features``.
      once: ``(name, make) -> make()``, made when a name is first asked for.
    """

    evaluator: Callable
    centroids: Callable[[int], evaluation.Classify]
    heads: Callable[[int], evaluation.Classify]
    features: Callable[[Network], Callable]
    once: Callable[[str, Callable[[], Any]], Any]


def programs() -> Programs:
    """Empty; make one for each table and zoo, its end frees what was compiled."""
    return Programs(
        evaluator=functools.cache(evaluation.evaluator),
        centroids=functools.cache(evaluation.centroid_classifier),
        heads=functools.cache(_heads),
        features=functools.cache(_features),
        once=_once(),
    )


def _heads(way: int) -> evaluation.Classify:
    """The strongest head of each protocol: ridge regression and soft k-means."""
    return evaluation.head_classifier(
        lambda params, x: x,
        heads.centered(heads.ridge(way), "none"),
        heads.centered(heads.soft_kmeans(way), "episode"),
    )


def _features(network: Network) -> Callable:
    return jax.jit(panel.embedder((network,), output="features", mirror=False))


def _once() -> Callable[[str, Callable[[], _T]], _T]:
    made: dict[str, Any] = {}

    def once(name: str, make: Callable[[], _T]) -> _T:
        if name not in made:
            made[name] = make()
        return made[name]

    return once


class Setting(NamedTuple):
    """Teachers, and the episodes that every row of a table is measured on.

    Build it with `make_setting`, which has defaults.

    Attributes:
      key: root of all randomness: equal keys give every row the same episodes.
      bank: images of the classes to evaluate on.
      zoo: the teachers; None where there are none.
      student: the network whose weights some baselines make.
      learner: adapts weights of `student` to an episode; None where none is known.
      way, shots, queries, num_episodes: of the episodes.
      temperature: of the teachers' softmax.
      map_tasks: how episodes and teachers are spread over devices.
      place: copies arrays to all devices.
      programs: shared by all rows of this bank, zoo and learner; shots and queries may
        differ.
    """

    key: jax.Array
    bank: ImageBank
    zoo: Zoo | None
    student: Network | None
    learner: MetaLearner | None
    way: int
    shots: int
    queries: int
    num_episodes: int
    temperature: float
    map_tasks: Callable
    place: Callable
    programs: Programs


def make_setting(
    key: jax.Array,
    bank: ImageBank,
    zoo: Zoo | None,
    *,
    student: Network | None = None,
    learner: MetaLearner | None = None,
    way: int = 5,
    shots: int = 1,
    queries: int = 15,
    num_episodes: int = 600,
    temperature: float = 4.0,
    map_tasks: Callable = parallel.map_tasks,
    place: Callable = lambda tree: tree,
) -> Setting:
    """A `Setting` with programs of its own; see there for the arguments."""
    return Setting(
        key,
        bank,
        zoo,
        student,
        learner,
        way,
        shots,
        queries,
        num_episodes,
        temperature,
        map_tasks,
        place,
        programs(),
    )


def evaluate(
    setting: Setting,
    classify: evaluation.Classify,
    params: PyTree,
    bank: ImageBank | None = None,
) -> Scores:
    """Accuracy of any classifier on the setting's episodes.

    Args:
      setting: the episodes.
      classify: ``(params, episode) -> {protocol: logits}``.
      params: its first argument.
      bank: in place of the setting's, such as descriptions of its images.
    """
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
    key = evaluation_key(setting)
    return run(key, params, setting.bank if bank is None else bank)


def evaluation_key(setting: Setting) -> jax.Array:
    """What every row draws its episodes from."""
    return keys.named(setting.key, "evaluation")


def adapted(setting: Setting, params: PyTree) -> Scores:
    """Weights of the meta-model, adapted to each episode by the setting's learner.

    Raises:
      NotApplicable: there is no learner.
    """
    classify = evaluation.learner_classifier(learner(setting))
    return evaluate(setting, classify, {"params": params})


def learner(setting: Setting) -> MetaLearner:
    """The setting's learner.

    Raises:
      NotApplicable: there is none.
    """
    if setting.learner is None:
        raise NotApplicable("no learner is given that adapts weights to an episode")
    return setting.learner


def teachers(setting: Setting) -> Zoo:
    """The setting's teachers, which give weights and features, maybe from files.

    Raises:
      NotApplicable: there are none, or they are asked over a network.
    """
    if setting.zoo is None:
        raise NotApplicable("there are no teachers")
    if setting.zoo.service is not None:
        raise NotApplicable(
            "teachers are endpoints: they give neither weights nor features, and are "
            "not asked about test images"
        )
    return setting.zoo


def teachers_at_once(setting: Setting) -> Zoo:
    """The same for what needs all weights together: in memory.

    Raises:
      NotApplicable: see `teachers`, or they are too large for it.
    """
    zoo = teachers(setting)
    leaves = jax.tree.leaves(zoo.teachers)
    if not any(map(rows.in_files, leaves)):
        return zoo
    size = sum(leaf.nbytes for leaf in leaves)
    if size > _MOST:
        raise NotApplicable(
            f"weights of {zoo.num_teachers} teachers, {size / 1e9:.1f} GB, are "
            f"more than the {_MOST / 1e9:.0f} GB that are held at once"
        )
    return setting.programs.once("teachers in memory", lambda: in_memory(zoo))
