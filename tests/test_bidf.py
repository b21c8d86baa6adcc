"""BiDf-MKD against a loop, its schedule and counts, and the command line end to end."""

import functools
import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from experiments import run, train
from experiments.inputs import command_line
from free_jax import algorithms, augment, zoo
from free_jax.algorithms import bidf_bilevel
from free_jax.algorithms.bidf import BidfOptions
from free_jax.errors import InputError
from free_jax.fewshot import banks, replay
from free_jax.fewshot.banks import CapacityOptions
from free_jax.fewshot.episodes import balanced_labels
from free_jax.fewshot.learners import batch_apply, maml
from free_jax.inversion import Adversary, Estimator, Objective, meta_generator
from free_jax.objectives import kl

PER_CLASS, CAPACITY, K = 2, 8, 2
LARGE = toy.tiny((20, 24, 3), width=6)
ESTIMATOR = Estimator(3, 0.1, 4, at_once=2)
OPTIMIZER = optax.sgd(0.05, momentum=0.9)
LEARNER = maml(toy.TINY, num_steps=1, inner_lr=0.1)
LEVELS = bidf_bilevel.bilevel(toy.TINY, inner_lr=0.1, num_steps=K)
LABELS = balanced_labels(toy.WAY, PER_CLASS)
# Two inversions of two steps, the last of which needs no gradient, and their accuracy;
# both sets for the distillation.
QUERIES = 2 * len(LABELS) * (4 + 1 + 1) + 2 * len(LABELS)


def build_inverter(arch):
    return meta_generator(
        toy.LINEAR_GENERATOR,
        arch,
        inner_optimizer=optax.sgd(0.05),
        objective=Objective(moments=0.0, crop_padding=2, agreement="l1"),
        student=toy.TINY,
        num_steps=2,
        latent_dim=toy.LATENT,
        meta_gradient="reptile",
        estimator=ESTIMATOR,
    )


def even_episodes(key, params, bank):
    """Episodes' gradients, easy to compile; the real ones are tested elsewhere."""
    return jax.tree.map(lambda p: jnp.full_like(p, 0.1), params), ()


def no_replay(key, params, opt_state, bank):
    """What the rest of the step does stands alone; replay is tested with FREE."""
    zero = jnp.zeros(())
    return params, opt_state, replay.ReplayInfo(zero, zero, jnp.int32(0))


def build(archs, num_teachers=None, **change):
    options = BidfOptions(
        images_per_class=PER_CLASS, boundary_after=1, outer_optimizer=optax.sgd(0.5)
    )
    # Without the tests' own check of annotations, which comes before the factory's.
    return inspect.unwrap(algorithms.bidf)(
        tuple(build_inverter(arch) for arch in archs),
        archs,
        LEARNER,
        toy.TINY,
        LEVELS,
        even_episodes,
        no_replay,
        OPTIMIZER,
        num_teachers=num_teachers or (3, 2)[: len(archs)],
        num_classes=toy.CLASSES,
        options=options._replace(**change),
        memory=CapacityOptions(CAPACITY),
    )


def start(algorithm):
    """A state without compiling `init`."""
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    filled = {
        name: toy.random_like(getattr(state, name), seed, scale=0.4)
        for seed, name in enumerate(("generator", "params"))
    }
    zeros = toy.zeros_like(state)
    return zeros._replace(**filled)


@functools.cache
def mixed():
    """Two architectures, and a step of the algorithm as one program each."""
    archs = (toy.TINY, LARGE)
    algorithm = build(archs)
    data = (toy.random_teachers(toy.TINY, 3), toy.random_teachers(LARGE, 2, seed=1))
    return algorithm, data, toy.compiled_once(algorithm)


@pytest.mark.slow
def test_queries_are_counted_and_the_boundary_is_sought_later():
    algorithm, data, step = mixed()
    state, path = start(algorithm), []
    for i in range(4):
        state, info = step(jax.random.key(i), state, data)
        path.append((state, info))
    for number, (state, info) in enumerate(path, 1):
        assert int(info.step_queries) == QUERIES
        spent = np.concatenate(state.queries)
        assert spent.sum() == number * QUERIES and not (spent % QUERIES).any()
        stored = int(state.memory.counts.sum())
        assert stored <= number * 2 * len(LABELS)
    # Both architectures had their turn.
    assert all(int(group.sum()) > 0 for group in path[-1][0].queries)
    # Without a student to differ from, the loss is the cross-entropy.
    assert abs(path[0][1].boundary_loss) < 1e-5
    assert min(info.boundary_loss for _, info in path[1:]) < -1e-3


def test_a_step_is_a_python_loop():
    algorithm, data, step = mixed()
    state = start(algorithm)._replace(step=jnp.int32(1))
    key = jax.random.key(11)
    found, info = step(key, state, data)

    key_group, key_teacher, key_lesson, _, _ = jax.random.split(key, 5)
    group = int(jax.random.randint(key_group, (), 0, 2))
    index = int(jax.random.randint(key_teacher, (), 0, (3, 2)[group]))
    arch, teacher = (toy.TINY, LARGE)[group], jax.jit(zoo.take)(data[group], index)
    keys = jax.random.split(key_lesson, 6)
    invert = jax.jit(build_inverter(arch).invert)

    @jax.jit
    def teach(key, images):
        views = augment.crop_flip(key, images)
        return views, arch.apply(
            teacher.variables, augment.fit_to(views, arch.image_shape)
        )

    def loss(params, views, said):
        return kl(batch_apply(toy.TINY, params, views), said)

    support, first, way_back = invert(keys[1], state.generator, teacher, LABELS)
    views, said = teach(keys[2], support.images)

    def adapt(params):
        for _ in range(K):
            grads = jax.grad(loss)(params, views, said)
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        return params

    fast = jax.jit(adapt)(state.params)
    query, second, other = invert(
        keys[4], state.generator, teacher, LABELS, Adversary(fast, jnp.float32(1))
    )
    asked = teach(keys[5], query.images)
    value, grads = jax.jit(
        jax.value_and_grad(lambda params: loss(adapt(params), *asked))
    )(state.params)
    np.testing.assert_allclose(info.distill_loss, value, rtol=1e-3)
    np.testing.assert_allclose(
        info.teacher_accuracy, (first.teacher_accuracy + second.teacher_accuracy) / 2
    )
    np.testing.assert_allclose(
        info.boundary_loss, second.loss[-1] - second.cross_entropy[-1], rtol=1e-3
    )
    # The shared generator goes half of the way that both inversions went together.
    generator = jax.tree.map(
        lambda p, a, b: p - 0.5 * (a + b),
        *map(toy.host, (state.generator, way_back, other)),
    )
    toy.assert_close(found.generator, generator, rtol=1e-3, atol=1e-4)
    add = jax.jit(banks.add)
    bank = add(add(state.memory, support), query)
    np.testing.assert_array_equal(found.memory.counts, bank.counts)
    gap = np.asarray(found.memory.images, int) - np.asarray(bank.images, int)
    assert np.abs(gap).max() <= 1  # Rounding down is not continuous.
    # One update on distillation and episodes together.
    total = jax.tree.map(lambda g: g + 0.1, toy.host(grads))
    params, _ = toy.updated(OPTIMIZER, total, state.opt, state.params)
    toy.assert_close(found.params, params, rtol=1e-2, atol=1e-3)


def test_meta_gradient_of_both_levels_by_finite_differences():
    with jax.enable_x64():
        shapes = jax.eval_shape(toy.TINY.init, jax.random.key(0))["params"]
        params = toy.double(toy.random_like(shapes, scale=0.4))
        episode = toy.double(toy.random_episode())
        rng = np.random.default_rng(0)
        support, query = (
            bidf_bilevel.Taught(
                getattr(episode, f"{name}_images"),
                jnp.asarray(rng.normal(size=(len(labels), toy.WAY))),
                labels,
            )
            for name, labels in (
                ("support", episode.support_labels),
                ("query", episode.query_labels),
            )
        )
        levels = bidf_bilevel.bilevel(toy.TINY, inner_lr=0.1, num_steps=1)

        @jax.jit
        def outer(params):
            return levels.loss(levels.adapt(params, support), query)[0]

        direction = toy.double(toy.random_like(params, 3))
        exact = toy.dot(jax.jit(jax.grad(outer))(params), direction)
        numeric = toy.central_difference(outer, params, direction, 1e-6)
        np.testing.assert_allclose(exact, numeric, rtol=1e-4)


def test_fresh_generators_are_not_learned():
    algorithm = build((toy.TINY,), generator_init="fresh")
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    data = (toy.random_teachers(toy.TINY, 3),)
    # Untouched: the same tracer comes out.
    jaxpr = jax.make_jaxpr(algorithm.step)(jax.random.key(0), start(algorithm), data)
    first = 1 + len(jax.tree.leaves(state.step))
    kept = len(jax.tree.leaves(state.generator))
    inside = jaxpr.jaxpr.invars[first : first + kept]
    outside = jaxpr.jaxpr.outvars[first - 1 : first - 1 + kept]
    assert inside == outside


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_teachers": (1, 2)}, "1 groups"),
        ({"images_per_class": 9}, r"exceeds memory\.per_class=8"),
        ({"images_per_class": 0}, "at least 1"),
        ({"boundary_after": -1}, "not be negative"),
        ({"generator_init": "new"}, "choose one of shared, fresh"),
        ({"outer_optimizer": {"name": "sdg"}}, "did you mean 'sgd'"),
    ],
)
def test_contradictions_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        build((toy.TINY,), **change)


# ---- the command line ------------------------------------------------------------

CONFIG = "experiments/configs/bidf_cifar_fs_5w1s.py:smoke"
TINY = [
    "--config.student.kwargs.width=4",
    "--config.generator.width=4",
    "--config.zoo.pretrain.model.kwargs.width=4",
    "--config.zoo.pretrain.epochs=1",
    "--config.eval.episodes=8",
    "--config.eval.val_episodes=4",
    "--config.eval.queries=5",
    "--config.replay.queries=5",
    "--config.learner.test_steps=2",
    "--config.learner.train_steps=1",
    "--config.recover.images_per_class=4",
    "--config.eval.yardsticks=('random',)",
    "--config.log.every_secs=0",
]


@pytest.mark.slow
def test_a_run_tells_accuracy_by_queries(tmp_path):
    argv = ["run.py", f"--config={CONFIG}", *TINY, f"--workdir={tmp_path}"]
    assert run.main([*argv, "--compilation_cache=off", "--distributed=off"]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    config = command_line.parse(argv).config
    # Every step but the last asks around an image; accuracy and distillation ask once.
    around = (
        config.inversion.num_steps - 1
    ) * config.inversion.estimator.num_directions
    asked = around + config.inversion.num_steps + 1 + 1
    a_step = 2 * 5 * config.recover.images_per_class * asked
    assert result["queries"]["total"] == config.num_steps * a_step
    assert sum(result["queries"]["per_teacher"]) == result["queries"]["total"]
    assert len(result["queries"]["per_teacher"]) == 3
    assert [row["queries"] for row in result["curve"]] == [2 * a_step, 4 * a_step]
    assert set(result["results"]) == {"bidf (maml)", "random initialisation"}
    for name in ("queries.png", "recovered.png", "model.npz"):
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.black_box.gives=words", "choose one of logits"),
        ("--config.black_box.gradient=grey", "choose one of all, without_gradients"),
        ("--config.inversion.estimator.num_directions=0", "must be at least 1"),
        ("--config.replay.episodes_per_update=1", "at least 2"),
        ("--config.inversion.objective.agreement=l2", "choose one of kl"),
    ],
)
def test_bad_config_is_one_clear_line(override, message):
    config = command_line.parse(["run.py", f"--config={CONFIG}", override]).config
    with pytest.raises(InputError, match=message) as error:
        train.main(config, "/nonexistent/never/made")
    assert "\n" not in str(error.value)


def test_scenarios_and_variants():
    def parse(variant):
        path = CONFIG.replace(":smoke", f":{variant}")
        return command_line.parse(["run.py", f"--config={path}"]).config

    assert parse("api=MH").student.kwargs.global_pool
    assert parse("white_box").inversion.estimator.teachers == "none"
    released = parse("reference")
    assert released.distill.loss == "prob_dot"
    assert released.inversion.objective.agreement == "l1"
    estimator = released.inversion.estimator
    assert (estimator.num_directions, estimator.frequencies) == (100, 0)
    with pytest.raises(InputError, match="choose SS, SH or MH"):
        parse("api=XX")
