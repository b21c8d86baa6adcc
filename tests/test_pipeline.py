"""From a zoo to a distilled model without experiments or a working directory."""

import dataclasses
import functools
import inspect
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from free_jax import (
    Teachers,
    Zoo,
    ZooGroup,
    evaluation,
    inversion,
    keys,
    panel,
    rows,
    zoo,
)
from free_jax.images import fit_to
from free_jax.inversion import GeneratorOptions, Recipe
from free_jax.jobs import in_memory
from free_jax.options import adam
from free_jax.panel import classifiers
from free_jax.types import Answers, SyntheticImages

KEY = jax.random.key(0)
RECOVER = panel.RecoverOptions(
    images_per_class=2,
    dead_leaves=7,
    at_once=2,
    inversion=Recipe(init="dead_leaves", num_steps=2),
)
OPTIONS = panel.PanelOptions(recover=RECOVER, trust=False)
SHORT = panel.DistillOptions(batch_size=8, whitening=0.0, fit_images=6)
LARGE = toy.tiny((20, 20, 3), width=6)
NAMES = tuple(f"class {i}" for i in range(toy.CLASSES))


def group_of(count, network=toy.TINY, seed=0):
    teachers = toy.random_teachers(network, count, seed=seed)
    return ZooGroup(network, teachers, np.full(count, np.nan), "toy")


@functools.cache
def tiny_zoo():
    """Two networks of different image sizes; three teachers and one."""
    return Zoo((group_of(3), group_of(1, LARGE, seed=1)), NAMES)


@functools.cache
def described():
    return panel.describe_zoo(KEY, tiny_zoo(), OPTIONS)


def from_a_zoo_to_a_model(teachers, student):
    found = panel.describe_zoo(KEY, teachers, OPTIONS)
    made = panel.distil(KEY, found.described, student, SHORT, num_steps=2)
    ways = classifiers.methods(
        made.network, way=3, num_steps=1, learning_rate=0.1, head_scale=10.0
    )
    return made, evaluation, ways


def test_under_ten_lines_from_a_zoo_to_a_model():
    lines = inspect.getsource(from_a_zoo_to_a_model).splitlines()
    assert len(lines) < 10
    made, _, ways = from_a_zoo_to_a_model(tiny_zoo(), toy.TINY)
    assert made.network.num_classes == 4 * toy.WAY
    assert set(made.variables) == {"params", "batch_stats", "descriptions"}
    assert made.info.distill_loss.shape == (2,) and made.info.is_finite.all()
    episode = toy.random_episode()
    scores = jax.jit(next(iter(ways.values())))(made.variables, episode)
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(scores))


def test_a_described_set_holds_every_teachers_images_and_answers():
    found = described()
    assert found.made == found.asked == 4 * 3 * 2 + 7
    images = found.recovered
    assert images.images.shape == (31, *toy.SHAPE) and images.images.dtype == np.uint8
    np.testing.assert_array_equal(
        images.owners, [*np.repeat([0, 1, 2, 3], 6), *[-1] * 7]
    )
    assert images.natural.all() and (images.classes[24:] == -1).all()
    # Answers by hand, one teacher after the other.
    pixels = jnp.asarray(images.images, jnp.float32) / 255
    said = []
    for group in tiny_zoo().groups:
        for row in range(group.num_teachers):
            one = zoo.take(group.teachers, row)
            fitted = fit_to(pixels, group.network.image_shape)
            said.append(jax.jit(group.network.apply)(one.variables, fitted))
    np.testing.assert_allclose(
        np.asarray(found.described.logits).reshape(31, -1),
        np.concatenate(said, axis=1),
        rtol=1e-4,
        atol=1e-4,
    )


def test_an_inversion_of_a_whole_zoo_is_that_of_each_teacher():
    """By the direct constructor, one teacher at a time, whatever shares a job."""
    found = described().recovered
    labels = jnp.arange(6) % 3
    inverter = inversion.pixel_inverter(toy.TINY, num_steps=2, init="dead_leaves")
    for row in range(3):
        teacher = zoo.take(tiny_zoo().teachers[0], row)
        key = keys.named(KEY, "teacher", row)
        images = jax.jit(inverter.invert)(key, (), teacher, labels)[0].images
        mine = found.images[found.owners == row]
        # Batched over teachers, rounding may move a pixel by one step.
        assert np.abs(mine - np.floor(255 * np.asarray(images))).max() <= 1
        ids = np.asarray(teacher.class_ids)[np.asarray(labels)]
        np.testing.assert_array_equal(found.classes[found.owners == row], ids)


def test_the_model_is_that_of_the_harness_loop():
    """A scan of the step that a loop runs, with the same keys."""
    data = described().described
    options = SHORT._replace(fit_images=1000)
    made = panel.distil(KEY, data, toy.TINY, options, num_steps=2)
    columns = np.arange(0, 13, 3)
    algorithm = panel.distillation(made.network, columns, options, 2)
    state = jax.jit(algorithm.init)(keys.named(KEY, "init"))
    for number in range(2):
        state, _ = algorithm.compiled()(keys.named(KEY, "step", number), state, data)
    toy.assert_close(made.variables["params"], algorithm.model(state)["params"])
    images = panel.fit_images(np.random.default_rng(0), data, 1000)
    assert len(images) == 24  # All that was recovered; no leaves.
    fitted = jax.jit(panel.statistics_fitter(made.network, columns, options))(
        algorithm.model(state), images, data.weights
    )
    toy.assert_close(made.variables["batch_stats"], fitted["batch_stats"])


def test_jobs_are_lazy_and_make_one_program(monkeypatch):
    made = []

    def counted(fn, **kwargs):
        mapped = jax.vmap(lambda shared, task: fn(shared, task), in_axes=(None, 0))

        def run(shared, tasks):
            made.append(jax.tree.leaves(tasks)[0].shape[0])
            return mapped(shared, tasks)

        return run

    def taken(teachers, rows):
        made.append("weights")
        return zoo.take(teachers, rows)

    lib = types.SimpleNamespace(take=taken)
    monkeypatch.setattr(inversion.jobs, "zoo_lib", lib)
    jobs = inversion.recovery_jobs(
        KEY,
        Zoo((group_of(4),), NAMES),
        Recipe(num_steps=1),
        images_per_class=1,
        at_once=2,
        image_shape=toy.SHAPE,
        map_tasks=counted,
    )
    assert [job.name for job in jobs] == ["group0-00000", "group0-00002"]
    assert not made
    found = inversion.images_of(list(in_memory("recovered", jobs)))
    assert found.owners.tolist() == np.repeat(np.arange(4), 3).tolist()
    assert made.count("weights") == 2 and made.count(2) == 1  # traced once


def test_names_sort_in_the_order_of_the_jobs():
    jobs = inversion.recovery_jobs(
        KEY,
        tiny_zoo(),
        Recipe(num_steps=1),
        images_per_class=1,
        image_shape=toy.SHAPE,
    )
    jobs += inversion.leaves_jobs(KEY, 5, toy.SHAPE, chunk=2)
    names = [job.name for job in jobs]
    assert names == sorted(names) and len(set(names)) == 7


def test_dead_leaves_do_not_depend_on_the_size_of_a_job():
    parts = [
        inversion.images_of(
            list(in_memory("", inversion.leaves_jobs(KEY, 5, toy.SHAPE, chunk=chunk)))
        ).images
        for chunk in (5, 2)
    ]
    assert np.abs(parts[0].astype(int) - parts[1]).max() <= 1
    assert parts[0].std() > 1


def five(stack=None, **changes):
    jobs = {
        "num_steps": 4,
        "teachers_per_step": 2,
        "optimizer": adam(1e-3, b1=0.5),
        "chunk": 2,
    }
    recipe = Recipe(
        source="generator",
        num_steps=1,
        decay="none",
        optimizer=adam(0.01),
        generator=GeneratorOptions(width=4, latent_dim=8),
    )
    inverter = inversion.build(recipe, toy.TINY)
    stack = stack or tiny_zoo().teachers[0]
    return inverter, inversion.generator_jobs(
        KEY, inverter, stack, jnp.arange(3), **jobs | changes
    )


def test_jobs_that_need_those_before_stay_in_this_process():
    _, (jobs, _) = five()
    assert all(job.here for job in jobs)


@pytest.mark.slow
def test_a_meta_training_goes_on_from_what_was_kept():
    """The same bits as in one go, and as the plain loop makes."""
    inverter, (jobs, left) = five()
    whole = [
        dict(result) for result in in_memory("meta_generator", jobs) if left(result)
    ]
    assert [job.name for job in jobs] == ["group0-00000", "group0-00002"]
    # Only the first part is kept: another process reads it and makes the second.
    _, (again, left_again) = five()
    left_again(whole[0])
    toy.assert_equal(again[1].run(), whole[1])
    init, step = inversion.meta_training(
        inverter,
        jnp.arange(3),
        optimizer=inversion.recipe.optimizer(adam(1e-3, b1=0.5)),
        teachers_per_step=2,
    )
    state, run = jax.jit(init)(keys.named(KEY, "init")), jax.jit(step)
    for number in range(4):
        key = keys.named(KEY, "step", number)
        state, info = run(key, state, tiny_zoo().teachers[0])
    toy.assert_equal(left(whole[1]), jax.device_get(state))
    assert whole[1]["loss"][-1] == info.loss
    # Nothing starts from a state that nobody gave.
    with pytest.raises(ValueError, match="steps after 2 start from"):
        five()[1].jobs[1].run()


def test_a_meta_training_reads_the_drawn_teachers_of_a_large_zoo(tmp_path):
    """Its weights are in files, which no compiled program takes."""
    held, shape = jax.tree.flatten(tiny_zoo().teachers[0])
    np.savez(tmp_path / "a.npz", **{str(i): x for i, x in enumerate(held)})
    names = [str(i) for i in range(len(held))]
    stored = rows.in_archive(tmp_path / "a.npz", names)
    stack = shape.unflatten([stored[name] for name in names])
    assert all(map(rows.in_files, jax.tree.leaves(stack)))
    short = {"num_steps": 1, "chunk": 1}
    found = [five(x, **short)[1].jobs[0].run() for x in (None, stack)]
    toy.assert_equal(*found)


def test_a_meta_training_goes_on_from_what_a_run_kept(tmp_path):
    (first, second), left = five(num_steps=2, chunk=1)[1]
    result = first.run()
    np.savez(tmp_path / "a.npz", **result)
    kept = rows.in_archive(tmp_path / "a.npz", first.by_rows)
    made = []
    for state in (result, kept):
        left(state)
        made.append(second.run())
    toy.assert_equal(*made)


def test_a_loss_that_is_not_finite_ends_a_meta_training():
    _, (jobs, _) = five(optimizer=adam(float("nan")), chunk=4)
    with pytest.raises(FloatingPointError, match="the loss is nan at step 2"):
        jobs[0].run()


@pytest.mark.slow
def test_five_recovers_from_the_generator_that_was_trained():
    recipe = Recipe(
        source="generator",
        num_steps=1,
        decay="none",
        optimizer=adam(0.01),
        generator=GeneratorOptions(width=4, latent_dim=8),
    )
    options = panel.RecoverOptions(
        images_per_class=1, dead_leaves=0, inversion=recipe, at_once=3
    )
    trained = options._replace(meta_training=panel.MetaTraining(2, 1, adam(0.1)))
    teachers = Zoo((group_of(2),), NAMES)
    stages = []

    def run(stage, jobs):
        stages.append(stage)
        return in_memory(stage, jobs)

    found = [panel.recover_zoo(KEY, teachers, how, run) for how in (options, trained)]
    assert stages == ["recovered", "meta_generator", "recovered"]
    assert not found[0].natural.any()
    assert (found[0].images != found[1].images).any()


def test_known_images_come_first_and_may_be_all():
    first = described()
    columns = tiny_zoo().columns
    said = np.asarray(first.described.logits).reshape(31, -1)
    known = (first.recovered, Answers(said, columns))
    nothing = OPTIONS._replace(
        recover=RECOVER._replace(images_per_class=0, dead_leaves=0)
    )
    only = panel.describe_zoo(KEY, tiny_zoo(), nothing, known=known)
    toy.assert_equal(only.described, first.described)
    assert only.recovered is None
    leaves = nothing._replace(recover=nothing.recover._replace(dead_leaves=2))
    more = panel.describe_zoo(KEY, tiny_zoo(), leaves, known=known)
    assert len(more.described.images) == 33
    toy.assert_equal(more.described.images[:31], first.described.images)
    with pytest.raises(ValueError, match="nothing to describe"):
        panel.describe_zoo(KEY, tiny_zoo(), nothing)


def test_images_of_held_out_classes_are_in_their_bank_alone():
    """Only what asked teachers made, and leaves, is described."""
    teachers = toy.random_teachers(toy.TINY, 4)
    ids = jnp.asarray([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 4, 8]], jnp.int32)
    group = ZooGroup(
        toy.TINY, Teachers(teachers.variables, ids), np.full(4, np.nan), "toy"
    )
    whole = Zoo((group,), NAMES)
    choice = panel.PanelChoice(np.asarray([0]), np.asarray([3, 4, 8]))
    found = panel.describe_zoo(KEY, whole, OPTIONS, choice=choice)
    assert len(found.described.images) == 6 + 7
    assert found.described.weights.shape == (1,)
    assert found.held_out.counts.tolist() == [2, 4, 4]
    images = found.recovered
    wanted = images.images[images.classes == 4]
    np.testing.assert_array_equal(found.held_out.images[1, :4], wanted)


def test_a_panel_holds_out_classes_that_no_asked_teacher_knows():
    class Last(np.random.Generator):
        """Draws the last classes."""

        def permutation(self, x, axis=0):
            return x[::-1]

    group = group_of(3)
    ids = jnp.arange(9, dtype=jnp.int32).reshape(3, 3)
    group = dataclasses.replace(group, teachers=group.teachers._replace(class_ids=ids))
    whole, options = Zoo((group,), NAMES), panel.PanelOptions(held_out_classes=3)
    choice = panel.choose(Last(np.random.PCG64(0)), whole, options)
    assert choice.held_out.tolist() == [6, 7, 8]
    assert choice.asked.tolist() == [0, 1]
    with pytest.raises(zoo.pool.InputError, match="must be between 3 and"):
        panel.choose(
            np.random.default_rng(0), whole, options._replace(held_out_classes=2)
        )


class Service:
    """Teachers behind a network, whose budget ends after some jobs."""

    def __init__(self, network, jobs):
        self.left, self.network = jobs, network
        self.asked = 0

    def exhausted(self):
        return "" if self.left > 0 else "the budget is spent"

    def raise_if_broken(self):
        self.left -= 1
        self.asked += 1


def test_asking_ends_with_the_service(monkeypatch):
    whole = Zoo((group_of(2),), NAMES)
    service = Service(toy.TINY, jobs=2)
    monkeypatch.setattr(Zoo, "service", property(lambda self: service))
    embedder = panel.asking.compiled_embedder

    def limited(*args, **kwargs):
        embed = embedder(*args, **kwargs)

        def run(teachers, images):
            logits = embed(teachers, images)
            # Of the second teacher some answers are missing in the last job.
            late = jnp.isnan(jnp.full(len(images), jnp.nan)) & (
                jnp.arange(len(images)) >= (2 if len(images) == 3 else 0)
            )
            return jnp.where(late[:, None] & (jnp.arange(6) >= 3), jnp.nan, logits)

        return run

    monkeypatch.setattr(panel.asking, "compiled_embedder", limited)
    images = np.zeros((9, *toy.SHAPE), np.uint8)
    kept = []

    def run(stage, jobs):
        for job in jobs:
            result = job.run()
            kept.append(bool(result["complete"]))
            yield result

    answers = panel.ask_zoo(whole, images, run, chunk=3)
    assert len(answers.logits) == 6 and service.asked == 2  # of three jobs
    assert kept == [False, False]
    assert panel.most_answers(answers) == 6  # one teacher about all six
    assert np.isfinite(answers.logits[:, :3]).all()


def test_most_answers_are_kept():
    logits = np.zeros((10, 4))
    logits[8:, :2] = np.nan
    logits[3:, 3] = np.nan
    columns = np.asarray([0, 2, 3, 4])
    assert panel.most_answers(Answers(logits, columns)) == 8
    logits[1:] = np.nan
    assert panel.most_answers(Answers(logits, columns)) == 1


def test_a_teacher_without_an_answer_about_one_image_loses_that_image_only():
    logits = np.zeros((100, 4))
    logits[3, :2] = np.nan
    logits[50:, 3] = np.nan
    columns = np.asarray([0, 2, 3, 4])
    used = panel.answered_images(Answers(logits, columns))
    assert used.tolist() == [i for i in range(100) if i != 3]


def test_answers_without_trust_are_no_panel():
    images = SyntheticImages(
        np.zeros((2, *toy.SHAPE), np.uint8), *np.full((2, 2), -1), np.full(2, True)
    )
    answers = Answers(np.full((2, 3), np.nan), np.asarray([0, 3]))
    with pytest.raises(zoo.pool.InputError, match="no teacher of the zoo answers"):
        panel.to_described(images, answers)


def test_the_student_gets_the_heads_of_all_teachers():
    student = dataclasses.replace(toy.TINY, num_classes=2)
    made = panel.distil(KEY, described().described, student, SHORT, num_steps=1)
    assert made.variables["params"]["head"]["bias"].shape == (12,)
    with pytest.raises(ValueError, match="num_steps=0"):
        panel.distil(KEY, described().described, student, SHORT, num_steps=0)
