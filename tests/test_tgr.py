"""TGR: its regulariser against closed forms, its groups, and a step against a loop."""

import importlib

import harness_toy
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_contract
import toy

from experiments.harness.method import Judge, Meters, Method
from free_jax import InputError, algorithms, keys
from free_jax.algorithm import total_draws
from free_jax.algorithms import recovered_tasks, tgr_grouping
from free_jax.algorithms.tgr import Parts, TgrData, TgrOptions
from free_jax.algorithms.tgr_grouping import GroupOptions
from free_jax.panel import partial_answers
from free_jax.types import Answers, SyntheticImages

tgr = importlib.import_module("free_jax.algorithms.tgr")
SGD = optax.sgd(0.05)


def parts_of(**options):
    return Parts(
        test_contract.LEARNER,
        toy.LINEAR,
        toy.no_replay,
        SGD,
        toy.CLASSES,
        2,
        2,
        8,
        TgrOptions(**options),
        importlib.import_module("free_jax.parallel").map_tasks,
    )


def test_the_direction_of_quadratics_is_the_closed_form(monkeypatch):
    """L_i = (theta - c_i)' A_i (theta - c_i) / 2, spec section 13.10."""
    rng = np.random.default_rng(0)
    size, count, beta = 4, 3, 0.1
    roots = rng.normal(size=(count, size, size))
    a = roots @ roots.transpose(0, 2, 1) / size
    c, theta = rng.normal(size=(count, size)), rng.normal(size=size)
    g = np.einsum("tij,tj->ti", a, theta - c)
    moved = theta + beta * (g - g.mean(0))
    inner = np.einsum("tij,tj->ti", a, moved - c)
    eye, mean = np.eye(size), a.mean(0)
    wanted = np.mean(
        [(eye - beta * (mean - a[i])).T @ inner[i] for i in range(count)], axis=0
    )

    def quadratic(parts, params, task):
        gap = params - task.logits
        return 0.5 * gap @ task.images @ gap

    with jax.enable_x64(True):
        monkeypatch.setattr(tgr, "task_loss", quadratic)
        tasks = recovered_tasks.Task(jnp.asarray(a), jnp.asarray(c), jnp.zeros(count))
        parts = parts_of(displacement=beta)
        found, loss, _ = tgr.regularised(parts, jnp.asarray(theta), tasks)
        np.testing.assert_allclose(found, wanted, rtol=1e-9)
        values = [0.5 * (theta - c[i]) @ a[i] @ (theta - c[i]) for i in range(count)]
        np.testing.assert_allclose(loss, np.mean(values), rtol=1e-9)
        first = parts_of(displacement=beta, second_order=False)
        found = tgr.regularised(first, jnp.asarray(theta), tasks)[0]
        np.testing.assert_allclose(found, inner.mean(0), rtol=1e-9)
        plain = tgr.regularised(parts_of(displacement=0.0), jnp.asarray(theta), tasks)
        np.testing.assert_allclose(plain[0], g.mean(0), rtol=1e-9)
        # The conflict is the variance of the gradients over their mean's length.
        spread = np.square(g - g.mean(0)).sum(1).mean() / np.square(g.mean(0)).sum()
        np.testing.assert_allclose(plain[2], spread, rtol=1e-9)


@pytest.mark.slow
def test_the_direction_is_the_gradient_of_the_displaced_loss():
    """In one expression by automatic differentiation, and by finite differences."""
    tasks = test_contract.recovered_tasks()
    parts = parts_of(displacement=0.05, hard_label_weight=0.5)
    params = toy.LINEAR.init(jax.random.key(0))["params"]
    draw = jax.vmap(
        lambda row: recovered_tasks.draw_task(
            jax.random.key(1), tasks, row, way=toy.WAY, count=2
        )
    )
    with jax.enable_x64(True):
        drawn, params = toy.double((draw(jnp.arange(2)), params))

        def objective(params):
            one = [jax.tree.map(lambda x, i=i: x[i], drawn) for i in range(2)]
            grads = [jax.grad(tgr.task_loss, 1)(parts, params, task) for task in one]
            mean = jax.tree.map(lambda x, y: (x + y) / 2, *grads)
            return (
                sum(
                    tgr.task_loss(
                        parts,
                        jax.tree.map(
                            lambda p, g, m: p + 0.05 * (g - m), params, grads[i], mean
                        ),
                        one[i],
                    )
                    for i in range(2)
                )
                / 2
            )

        found = jax.jit(lambda p: tgr.regularised(parts, p, drawn)[0])(params)
        toy.assert_close(found, jax.jit(jax.grad(objective))(params), 1e-8, 1e-10)
        along = toy.random_like(params, 3)
        slope = toy.central_difference(jax.jit(objective), params, along)
        assert slope == pytest.approx(toy.dot(found, along), rel=1e-5)


@pytest.mark.slow
def test_a_step_is_a_loop():
    case = test_contract.CASES["tgr"]()
    state = case.algorithm.init(jax.random.key(0))
    key = jax.random.key(5)
    after, info = jax.jit(case.algorithm.step)(key, state, case.data)
    parts = parts_of(teachers_per_step=2)
    key_draw, key_tasks, key_version, _ = jax.random.split(key, 4)
    rows = tgr.draw(parts, key_draw, case.data.groups)
    version = int(jax.random.randint(key_version, (), 0, 2))
    memory, losses, one = state.memory, [], []
    for task_key, row in zip(jax.random.split(key_tasks, 2), rows, strict=True):
        task = recovered_tasks.draw_task(
            task_key, case.data.tasks, int(row), way=toy.WAY, count=2, version=version
        )
        memory = recovered_tasks.remember(memory, task)
        losses.append(float(tgr.task_loss(parts, state.params, task)))
        one.append(task)
    toy.assert_equal(memory, after.memory)
    assert float(info.distill_loss) == pytest.approx(np.mean(losses), rel=1e-5)

    grads = [jax.grad(tgr.task_loss, 1)(parts, state.params, t) for t in one]
    mean = jax.tree.map(lambda *g: sum(g) / 2, *grads)

    def loss(params):
        gradients = [jax.grad(tgr.task_loss, 1)(parts, params, t) for t in one]
        centre = jax.tree.map(lambda *g: sum(g) / 2, *gradients)
        total = 0.0
        for task, own in zip(one, gradients, strict=True):
            moved = jax.tree.map(
                lambda p, g, c: p + 1e-3 * (g - c), params, own, centre
            )
            total += tgr.task_loss(parts, moved, task)
        return total / 2

    step = jax.jit(jax.grad(loss))(state.params)
    wanted = jax.tree.map(lambda p, g: p - 0.05 * g, state.params, step)
    toy.assert_close(after.params, wanted, 1e-4, 1e-6)
    assert toy.dot(mean, mean) > 0


def test_draws_are_of_one_group_and_once_before_twice():
    groups = np.asarray([0, 0, 0, 1, 1, 2])
    parts = parts_of(teachers_per_step=3)._replace(num_groups=3)
    each = jax.random.split(jax.random.key(0), 3000)
    rows = np.asarray(jax.jit(jax.vmap(lambda k: tgr.draw(parts, k, groups)))(each))
    assert (groups[rows] == groups[rows[:, :1]]).all()
    np.testing.assert_allclose(np.bincount(groups[rows[:, 0]]) / 3000, 1 / 3, atol=0.04)
    of_three = rows[groups[rows[:, 0]] == 0]
    assert (np.sort(of_three, 1) == [0, 1, 2]).all()
    np.testing.assert_allclose(
        np.bincount(of_three[:, 0]) / len(of_three), 1 / 3, atol=0.05
    )
    of_two = rows[groups[rows[:, 0]] == 1]
    assert (np.bincount(of_two.ravel())[3:].min() > 0.4 * of_two.size) and (
        of_two[:, 0] != of_two[:, 1]
    ).all()
    again = parts_of(teachers_per_step=3, replacement=True)._replace(num_groups=3)
    rows = np.asarray(jax.jit(jax.vmap(lambda k: tgr.draw(again, k, groups)))(each))
    assert (groups[rows] == groups[rows[:, :1]]).all()
    of_three = rows[groups[rows[:, 0]] == 0]
    alike = (np.sort(of_three, 1) == [0, 1, 2]).all(1).mean()
    assert alike == pytest.approx(2 / 9, abs=0.05)
    # What is told of draws is what the steps draw.
    data = TgrData(test_contract.recovered_tasks(), groups, toy.bank(2))
    (counts,) = tgr.draws(parts, each[0], jnp.int32(0), data)
    mine = tgr.draw(parts, jax.random.split(each[0], 4)[0], groups)
    np.testing.assert_array_equal(counts, np.bincount(mine, minlength=6))


def test_similarity_in_closed_form():
    one = {"a": jnp.asarray([1.0, 0.0]), "b": jnp.asarray([3.0])}
    other = {"a": jnp.asarray([0.0, 5.0]), "b": jnp.asarray([3.0])}
    same = tgr_grouping.pair_similarity(one, one, 0.0)
    assert float(same) == pytest.approx(1.0)
    # "a" names different parameters, "b" the same one.
    assert float(tgr_grouping.pair_similarity(one, other, 0.0)) == pytest.approx(0.5)
    # Far below epsilon the shares become the embeddings themselves.
    x, y = jnp.asarray([1e-12, 2e-12]), jnp.asarray([3e-12, 1e-12])
    cosine = float((x @ y) / jnp.linalg.norm(x) / jnp.linalg.norm(y))
    assert float(tgr_grouping.pair_similarity(x, y, 1e-6)) == pytest.approx(
        cosine, rel=1e-3
    )
    shares = np.asarray([x / (x + y), y / (x + y)])
    wanted = (
        shares[0] @ shares[1] / np.linalg.norm(shares[0]) / np.linalg.norm(shares[1])
    )
    assert float(tgr_grouping.pair_similarity(x, y, 0.0)) == pytest.approx(
        wanted, rel=1e-3
    )
    stacked = jax.tree.map(lambda *z: jnp.stack(z), one, other, one)
    found = tgr_grouping.similarity(stacked, 0.0)
    np.testing.assert_allclose(found, [[1, 0.5, 1], [0.5, 1, 0.5], [1, 0.5, 1]])


def test_dissimilar_teachers_share_a_group():
    pytest.importorskip("sklearn")
    kinds = np.asarray([0, 0, 0, 1, 1, 1])
    alike = np.where(kinds[:, None] == kinds, 0.9, 0.1)
    np.fill_diagonal(alike, 1.0)
    similar = tgr_grouping.assign(alike, GroupOptions(2, "similar"))
    assert len(set(similar[:3])) == len(set(similar[3:])) == 1
    assert similar[0] != similar[5]
    mixed = tgr_grouping.assign(alike, GroupOptions(2, "dissimilar"))
    # Neither kind has a group of its own.
    assert {tuple(sorted(set(kinds[mixed == g]))) for g in (0, 1)} != {(0,), (1,)}
    random = tgr_grouping.assign(alike, GroupOptions(3, "random"))
    assert np.bincount(random).tolist() == [2, 2, 2]
    assert (tgr_grouping.assign(alike, GroupOptions(1)) == 0).all()
    with pytest.raises(InputError, match="only 6 teachers"):
        tgr_grouping.assign(alike, GroupOptions(7))


@pytest.mark.parametrize("fisher", ["sample", "batch"])
def test_an_embedding_is_mean_squared_gradients(fisher):
    tasks = test_contract.recovered_tasks()
    task = recovered_tasks.draw_task(jax.random.key(0), tasks, 1, way=toy.WAY, count=2)
    variables = jax.jit(toy.LINEAR.init)(jax.random.key(2))
    options = GroupOptions(fisher=fisher, batch_size=3)
    embed = tgr_grouping.embedding(toy.LINEAR, variables, options)
    found = jax.jit(embed)(jax.random.key(3), task)
    images, _, labels = task.rows
    order = np.asarray(jax.random.permutation(jax.random.key(3), 6))
    batches = order.reshape(2, 3) if fisher == "batch" else order[:, None]
    norm = "batch" if fisher == "batch" else "running"

    @jax.jit
    @jax.grad
    def slope(params, rows):
        logits = toy.LINEAR.apply(
            {**variables, "params": params}, images[rows], norm=norm
        )
        log_p = jax.nn.log_softmax(logits)
        return -log_p[np.arange(len(rows)), labels[rows]].mean()

    grads = [toy.host(slope(variables["params"], rows)) for rows in batches]
    wanted = jax.tree.map(lambda *g: sum(x**2 for x in g) / len(g), *grads)
    toy.assert_close(found, wanted, 1e-3, 1e-9)


def test_groups_are_one_job():
    tasks = test_contract.recovered_tasks()
    variables = jax.jit(toy.LINEAR.init)(jax.random.key(2))
    (job,) = tgr_grouping.grouping_jobs(
        jax.random.key(0),
        tasks,
        toy.LINEAR,
        variables,
        GroupOptions(1),
        way=toy.WAY,
    )
    assert job.name == "similarity"
    assert job.run()["groups"].tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="3 outputs, a task 5 classes"):
        tgr_grouping.grouping_jobs(
            jax.random.key(0), tasks, toy.LINEAR, variables, GroupOptions(1), way=5
        )


def synthetic(owners, classes, value=0):
    count = len(owners)
    images = np.zeros((count, *toy.SHAPE), np.uint8) + np.arange(count)[
        :, None, None, None
    ].astype(np.uint8)
    return SyntheticImages(
        images + np.uint8(value),
        np.asarray(classes, np.int32),
        np.asarray(owners, np.int32),
        np.ones(count, bool),
    )


@pytest.mark.parametrize("asked", ["all", "owners"])
def test_images_are_sorted_by_owner_and_class(asked):
    """Teachers of two, three and two classes; the last has too few images."""
    owners = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2]
    classes = [4, 2, 4, 2, 7, 8, 9, 7, 8, 9, 1, 1]
    images = synthetic(owners, classes)
    columns = np.asarray([0, 2, 5, 7])
    logits = np.arange(12 * 7, dtype=np.float32).reshape(12, 7)
    answers = [Answers(logits, columns), Answers(logits + 1000, columns)]
    if asked == "owners":
        answers = [
            partial_answers.some_of(x, np.asarray(owners)[:, None]) for x in answers
        ]
    tasks, rows, left_out = recovered_tasks.from_answers(
        [(images, answers[0]), (synthetic(owners, classes, 100), answers[1])],
        np.asarray([2, 4, 7, 8, 9, 1, 0]),
        way=2,
        per_class=2,
        names=["a", "b", "c"],
    )
    assert rows.tolist() == [0, 1] and tasks.widths.tolist() == [2, 3]
    assert left_out == ("c: 1 of its 2 classes have 2 images",)
    assert tasks.class_ids[0, :2].tolist() == [2, 4]
    # Class 2 of the first: images 1 and 3; answers are its own.
    assert tasks.images[0, 0, 0, :, 0, 0, 0].tolist() == [1, 3]
    assert tasks.images[0, 1, 0, :, 0, 0, 0].tolist() == [101, 103]
    np.testing.assert_array_equal(tasks.logits[0, 0, 0, :, :2], logits[[1, 3], :2])
    np.testing.assert_array_equal(tasks.logits[1, 1, 2], logits[[6, 9], 2:5] + 1000)
    bank = recovered_tasks.bank_of(tasks, 10)
    assert bank.counts.tolist() == [0, 0, 2, 0, 2, 0, 0, 2, 2, 2]
    with pytest.raises(InputError, match="no teacher has 3 images"):
        recovered_tasks.from_answers(
            [(images, answers[0])],
            np.asarray([2, 4, 7, 8, 9, 1, 0]),
            way=2,
            per_class=3,
        )
    # Whoever was not asked about its own image is left out.
    silent = np.where(np.arange(12) == 0, 1, owners)[:, None]
    less = partial_answers.some_of(Answers(logits, columns), silent)
    ids = np.asarray([2, 4, 7, 8, 9, 1, 0])
    found = recovered_tasks.from_answers([(images, less)], ids, way=2, per_class=2)
    assert found[1].tolist() == [1] and "not numbers" in found[2][0]


def test_a_task_is_drawn_of_its_teachers_classes():
    logits = np.arange(12 * 5, dtype=np.float32).reshape(12, 5)
    owners = [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    classes = [4, 2, 4, 2, 7, 8, 9, 7, 8, 9]
    answers = Answers(logits[:10], np.asarray([0, 2, 5]))
    tasks, _, _ = recovered_tasks.from_answers(
        [(synthetic(owners, classes), answers)],
        np.asarray([2, 4, 7, 8, 9]),
        way=2,
        per_class=2,
    )
    draw = jax.jit(lambda key: recovered_tasks.draw_task(key, tasks, 1, way=2, count=1))
    seen = set()
    for seed in range(30):
        task = draw(jax.random.key(seed))
        ids = tuple(task.class_ids.tolist())
        assert len(set(ids)) == 2 and set(ids) <= {7, 8, 9}
        columns_of = [[7, 8, 9].index(i) for i in ids]
        number = round(float(task.images[0, 0, 0, 0, 0]) * 255)
        np.testing.assert_array_equal(
            task.logits[0, 0], logits[number, 2:5][columns_of]
        )
        assert classes[number] == ids[0]
        seen.add(ids)
    assert len(seen) == 6
    # The first has two classes, never the padding.
    narrow = recovered_tasks.draw_task(jax.random.key(0), tasks, 0, way=2, count=2)
    assert sorted(narrow.class_ids.tolist()) == [2, 4]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"teachers_per_step": 1}, "teachers_per_step=1 must be at least 2"),
        ({"displacement": -1.0}, "displacement=-1.0 must not be negative"),
        ({"distill": "l1"}, "distill='l1': choose one of kl, prob_dot"),
        ({"replay_from": "some"}, "replay_from='some': choose one of all, drawn"),
    ],
)
def test_a_bad_option_is_refused_in_one_line(change, match):
    with pytest.raises(InputError, match=match) as error:
        algorithms.tgr(
            test_contract.LEARNER,
            toy.LINEAR,
            toy.no_replay,
            SGD,
            num_classes=9,
            options=TgrOptions(**change),
        )
    assert "\n" not in str(error.value)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="exceeds memory_per_class"):
        algorithms.tgr(
            test_contract.LEARNER,
            toy.LINEAR,
            toy.no_replay,
            SGD,
            num_classes=9,
            images_per_class=20,
            memory_per_class=10,
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tgr", "trustworthy"])
def test_a_stopped_run_ends_as_if_it_had_not_been(name, tmp_path):
    """Memory, policy and baseline included."""
    case = test_contract.CASES[name]()
    made = Method(
        title=name,
        algorithm=case.algorithm,
        data=case.data,
        network=toy.LINEAR,
        meters=Meters(status={}),
    )

    def train(folder, *stops):
        return harness_toy.train(
            tmp_path / folder, *stops, num_steps=4, made=made, judge=Judge()
        )

    whole = harness_toy.history(tmp_path / "a", train("a"))
    for stop in (1, 3):
        assert train("b", stop) == stop
    assert harness_toy.history(tmp_path / "b", train("b")) == whole


def test_draws_are_counted_without_weights():
    case = test_contract.CASES["tgr"]()
    root = jax.random.key(0)

    def key_of(number):
        return keys.named(root, "step", number)

    counts = total_draws(case.algorithm, key_of, np.arange(5), case.data)
    wanted = np.zeros(3, int)
    for number in range(5):
        key = jax.random.split(key_of(number), 4)[0]
        rows = tgr.draw(parts_of(teachers_per_step=2), key, case.data.groups)
        np.add.at(wanted, np.asarray(rows), 1)
    np.testing.assert_array_equal(counts, wanted)
    assert counts.sum() == 10
