"""The table of baselines: what each needs, says and shares, from arrays alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from free_jax import (
    Teachers,
    Zoo,
    ZooGroup,
    baselines,
    make_mesh,
    make_network,
    map_tasks,
    panel,
)
from free_jax.fewshot import banks, evaluation, heads
from free_jax.fewshot.learners import protonet
from free_jax.remote.module import Endpoint

ONE = {"way": 3, "shots": 1, "queries": 2, "num_episodes": 4}


def zoo_of(*groups):
    """A zoo of untrained teachers, (network, count) a group."""
    made = [
        ZooGroup(
            network, toy.random_teachers(network, count, seed=i), np.full(count, np.nan)
        )
        for i, (network, count) in enumerate(groups)
    ]
    return Zoo(tuple(made), tuple(map(str, range(toy.CLASSES))))


def knowing():
    """A zoo of teachers that were trained on pictures like those of `toy.bank`."""
    group = ZooGroup(toy.TINY, toy.trained_teachers(), np.full(3, np.nan))
    return Zoo((group,), tuple(map(str, range(toy.CLASSES))))


def test_a_zoo_is_evaluated_by_any_head_in_a_few_lines():
    zoo, bank = knowing(), toy.bank(per_class=6)
    # From here on, nothing but the library:
    setting = baselines.make_setting(jax.random.key(0), bank, zoo, **ONE)
    head = heads.centered(heads.logistic(3), "support")
    classify = evaluation.head_classifier(lambda params, x: x, head, head)
    scores = baselines.ensemble.classified(setting, classify)
    rows = {
        name: baselines.BASELINES[name].run(setting) for name in ("panel", "teacher")
    }
    assert scores["inductive"].mean > 60  # a guess is right in 33 %
    assert rows["panel"]["inductive"].mean > 60
    # And by the parts that it is made of.
    embed = functools.partial(jax.jit(panel.embedder(zoo.networks)), zoo.teachers)
    found = evaluation.evaluator(classify, **ONE)(
        baselines.evaluation_key(setting),
        None,
        panel.embed_bank(embed, bank),
    )
    for name, value in found.items():
        np.testing.assert_array_equal(value.per_episode, scores[name].per_episode)


def test_teachers_stay_in_files_but_for_fusion(tmp_path, monkeypatch):
    """Rows are those of teachers in memory, also where all are more than is held."""
    zoo, bank, learner = knowing(), toy.bank(per_class=6), protonet(toy.TINY)
    (lazy,) = toy.in_files(tmp_path, zoo.teachers)
    group = dataclasses.replace(zoo.groups[0], teachers=lazy)
    monkeypatch.setattr(baselines.setting, "_MOST", 1.0)
    make = functools.partial(
        baselines.make_setting, student=toy.TINY, learner=learner, **ONE
    )
    here = make(jax.random.key(0), bank, zoo)
    there = make(jax.random.key(0), bank, Zoo((group,), zoo.class_names))
    for name in ("panel", "teacher", "average"):
        run = baselines.BASELINES[name].run
        expected, found = run(here)["inductive"], run(there)["inductive"]
        np.testing.assert_array_equal(found.per_episode, expected.per_episode)
    with pytest.raises(baselines.NotApplicable, match="are held at once"):
        baselines.BASELINES["dro"].run(there)


def test_every_row_says_what_it_is_and_needs():
    labels = [row.label for row in baselines.BASELINES.values()]
    assert len(set(labels)) == len(labels)
    assert all(row.needs for row in baselines.BASELINES.values())


def test_without_teachers_or_a_learner_rows_say_so():
    bank = toy.bank(per_class=3)
    alone = baselines.make_setting(
        jax.random.key(0), bank, None, learner=protonet(toy.TINY), **ONE
    )
    for name, row in baselines.BASELINES.items():
        if name == "random":
            assert 0 <= row.run(alone)["inductive"].mean <= 100
            continue
        with pytest.raises(baselines.NotApplicable, match="no teachers"):
            row.run(alone)
    group = zoo_of((toy.TINY, 2))
    adapted = ("random", "average", "dro", "finetune")
    unlearned = baselines.make_setting(
        jax.random.key(0), bank, group, student=toy.TINY, **ONE
    )
    for name in adapted:
        with pytest.raises(baselines.NotApplicable, match="adapts weights to an"):
            baselines.BASELINES[name].run(unlearned)


def test_endpoints_give_neither_weights_nor_answers_about_test_images():
    remote = make_network(
        "endpoint",
        num_classes=3,
        image_shape=toy.SHAPE,
        family=Endpoint,
        gives=(),
        service="somewhere else",
    )
    variables = {"params": {"endpoint": jnp.arange(2)}, "batch_stats": {}}
    known = toy.random_teachers(toy.TINY, 2).class_ids
    group = ZooGroup(remote, Teachers(variables, known), np.full(2, np.nan))
    zoo = Zoo((group,), tuple(map(str, range(toy.CLASSES))))
    setting = baselines.make_setting(
        jax.random.key(0), toy.bank(per_class=3), zoo, **ONE
    )
    for name, row in baselines.BASELINES.items():
        if name != "random":
            with pytest.raises(baselines.NotApplicable, match="teachers are endpoints"):
                row.run(setting)


def test_fusion_says_where_it_cannot_be_applied():
    pytest.importorskip("ot")
    student, key = toy.ARCH, jax.random.key(0)
    wider = dataclasses.replace(toy.ARCH, kwargs=(("width", 6),))
    mixed = zoo_of((student, 1), (wider, 1))
    with pytest.raises(baselines.NotApplicable, match="cannot be averaged"):
        baselines.average_params(student, mixed)
    with pytest.raises(baselines.NotApplicable, match="cannot be predicted"):
        baselines.robust_params(key, student, mixed)
    one = zoo_of((student, 2))
    found = baselines.robust_params(key, student, one, num_steps=2)
    average = baselines.average_params(student, one)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, average)
    # Transport merges channels of other widths, but not other kinds of networks.
    fused = baselines.transported_params(student, mixed)
    shapes = jax.tree.map(jnp.shape, mixed.teachers[0].variables["params"])
    assert jax.tree.map(lambda x: (1, *x.shape), fused) == shapes
    eight = dataclasses.replace(toy.ARCH, kwargs=(("width", 8),))
    with pytest.raises(baselines.NotApplicable, match="no teacher has"):
        baselines.transported_params(eight, mixed)
    with pytest.raises(baselines.NotApplicable, match="no network whose weights"):
        baselines.average_params(None, one)


def test_more_outputs_than_a_matrix_takes_are_whitened_all_the_same(monkeypatch):
    drawn_leaves(monkeypatch, baselines.ensemble)

    def accuracy():
        setting = baselines.make_setting(
            jax.random.key(0), toy.bank(per_class=3), zoo_of((toy.TINY, 2)), **ONE
        )
        scores = baselines.ensemble.whitened(setting, num_images=40)
        return {name: value.mean for name, value in scores.items()}

    by_matrix = accuracy()
    monkeypatch.setattr(heads, "MOST_WHITENED", 5)
    assert accuracy() == pytest.approx(by_matrix, abs=1e-3)
    assert baselines.BASELINES["panel_whitened"].run is baselines.ensemble.whitened


def drawn_leaves(monkeypatch, module):
    """Any images in place of dead leaves, which take long to compile."""

    def draw(key, shape, n):
        return np.random.default_rng(0).uniform(size=(n, *shape)).astype(np.float32)

    monkeypatch.setattr(module, "draw_leaves", draw)


@pytest.fixture
def compiled():
    """Names of the programs compiled during the test."""
    names = []

    def listen(event, seconds, fun_name="", **_):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


def test_rows_of_the_same_classifier_share_its_program(compiled, monkeypatch):
    drawn_leaves(monkeypatch, baselines.teacher)
    learner = protonet(toy.TINY)
    mesh = make_mesh({"task": 2}, jax.devices()[:2])

    def place(tree):
        return jax.device_put(tree, jax.NamedSharding(mesh, jax.P()))

    zoo = zoo_of((toy.TINY, 2))
    (group,) = zoo.groups
    group = dataclasses.replace(group, teachers=place(group.teachers))
    images = np.random.default_rng(0).integers(256, size=(6, 3, *toy.SHAPE), dtype="u1")
    setting = baselines.make_setting(
        jax.random.key(0),
        place(banks.from_arrays(images, np.full(6, 3))),
        dataclasses.replace(zoo, groups=(group,)),
        student=toy.TINY,
        learner=learner,
        map_tasks=functools.partial(map_tasks, mesh=mesh),
        place=place,
        **ONE,
    )
    ours = evaluation.learner_classifier(learner)
    model = place({"params": jax.jit(learner.init)(jax.random.key(1))})
    # By what has to be compiled: evaluations are "run", embeddings "embed".
    expected = {
        "random": [],
        "average": [],
        "finetune": [],
        "teacher": ["embed", "run"],  # once for all its teachers
        "best": ["embed"],  # all teachers' views of dead leaves, not its features
        "panel": ["embed", "run"],
        "panel_heads": ["run"],
    }

    def programs():
        found = [x for x in compiled if x in ("jit(run)", "jit(embed)")]
        compiled.clear()
        return [name[4:-1] for name in found]

    programs()
    baselines.evaluate(setting, ours, model)
    assert programs() == ["run"]
    for name, wanted in expected.items():
        baselines.BASELINES[name].run(setting)
        assert programs() == wanted, name
    for name in ("teacher", "best", "panel", "panel_heads"):  # nothing is made anew
        baselines.BASELINES[name].run(setting)
        assert programs() == [], name
    baselines.evaluate(setting._replace(queries=1), ours, model)
    assert programs() == ["run"]
