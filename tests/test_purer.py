"""PURER: curriculum, gradients, label order and one step, each against a reference."""

import dataclasses
import functools
import inspect
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from experiments import train
from experiments.data import procedural
from experiments.inputs import command_line
from free_jax import algorithms, augment, inversion, objectives, parallel, zoo
from free_jax.algorithms import purer_curriculum
from free_jax.algorithms.purer import PurerOptions, as_bank, hardness, judge_block
from free_jax.algorithms.purer_curriculum import CurriculumOptions
from free_jax.errors import InputError
from free_jax.fewshot import episodes, replay
from free_jax.fewshot.learners import EpisodeInfo, maml, protonet
from free_jax.types import ImageBank, Teachers
from free_jax.zoo import Zoo, ZooGroup, disjoint, save_zoo
from free_jax.zoo.network import make_network

N, SHOTS, QUERIES = 3, 1, 2
OPTIMIZER = optax.sgd(0.05, momentum=0.9)
PIXELS = optax.sgd(2.0)
LEARNER = protonet(toy.TINY)  # quicker to compile than an inner loop
OBJECTIVE = inversion.Objective(
    moments=0.1,
    adversarial=0.0,
    total_variation=1e-2,
    variation="frobenius",
    l2=1e-2,
    crop_padding=2,
    augment_per_image=False,
    edges="wrap",
    flip=False,
)
SOURCE = inversion.normalized_source(toy.SHAPE, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
GRADIENT = inversion.white_box(OBJECTIVE, toy.TINY)
sample = functools.partial(
    episodes.sample_episode, way=toy.WAY, shots=SHOTS, queries=QUERIES
)
update = replay.episodic_update(
    LEARNER,
    OPTIMIZER,
    way=toy.WAY,
    shots=SHOTS,
    queries=QUERIES,
    episodes_per_update=2,
)


def build(
    learner=LEARNER,
    update=update,
    *,
    num_classes=toy.CLASSES,
    curriculum=CurriculumOptions(adversarial=4.0, after_steps=2, patience=2),
    **change,
):
    # Without the tests' own check of annotations, which comes before the factory's.
    return inspect.unwrap(algorithms.purer)(
        SOURCE,
        (GRADIENT,),
        learner,
        update,
        sample,
        pixels_optimizer=PIXELS,
        optimizer=OPTIMIZER,
        num_classes=num_classes,
        options=PurerOptions(N, teachers_per_step=2)._replace(**change),
        curriculum=curriculum,
    )


# ---- curriculum ------------------------------------------------------------------


def released_transcript(accuracies, *, start, patience, begin):
    """The released loops, in Python: which iterations take an adversarial step."""
    adversarial, best, count, used = False, None, 0, []
    for it, accuracy in enumerate(accuracies, 1):
        used.append(adversarial)
        adversarial = False  # one step uses it up
        if begin == "adversarial" and it == start:
            adversarial = True
        if it > start and not adversarial:
            if best is None or accuracy > best:
                best, count = accuracy, 0
            else:
                count += 1
            if count == patience:
                adversarial, count, best = True, 0, None
    return used


@pytest.mark.parametrize("begin", ["adversarial", "patience"])
@pytest.mark.parametrize(("start", "patience"), [(0, 1), (5, 3), (12, 6), (99, 2)])
def test_curriculum_follows_the_released_loop(begin, start, patience):
    # Few levels, so that equal accuracies (no improvement) occur often.
    accuracies = np.random.default_rng(start).integers(0, 4, size=80) / 4
    expected = released_transcript(
        accuracies, start=start, patience=patience, begin=begin
    )
    options = CurriculumOptions(after_steps=start, patience=patience, opening=begin)

    def body(rule, row):
        number, accuracy = row
        rule_after = purer_curriculum.advance(rule, number, accuracy, options)
        return rule_after, rule.adversarial

    rows = (jnp.arange(1, 81), jnp.asarray(accuracies, jnp.float32))
    _, used = jax.lax.scan(body, purer_curriculum.init(), rows)
    assert used.tolist() == expected
    assert sum(expected) > 1 or start == 99


# ---- losses ----------------------------------------------------------------------


def test_priors_are_their_closed_forms():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 5, 3))
    expected = 0.0
    for di, dj in [(0, 1), (1, 0), (1, 1), (1, -1)]:
        total = 0.0
        for i in range(4):
            for j in range(5):
                if 0 <= i + di < 4 and 0 <= j + dj < 5:
                    total += ((x[:, i + di, j + dj] - x[:, i, j]) ** 2).sum()
        expected += np.sqrt(total)
    images = jnp.asarray(x, jnp.float32)
    np.testing.assert_allclose(
        objectives.frobenius_variation(images), expected, rtol=1e-5
    )
    np.testing.assert_allclose(objectives.norm(images), np.sqrt((x**2).sum()), 1e-6)
    assert np.isfinite(jax.grad(objectives.norm)(jnp.zeros(3))).all()


def test_one_teachers_loss_is_the_sum_of_its_parts():
    """Roll, cross-entropy, statistics, both priors, of NORMALISED pixels."""
    teachers = toy.random_teachers(toy.TINY, 1)
    teacher = zoo.take(teachers, 0)
    rng = np.random.default_rng(1)
    images = rng.uniform(size=(toy.CLASSES, N, *toy.SHAPE)).astype(np.float32)
    key = jax.random.key(4)
    judge = jax.jit(functools.partial(judge_block, GRADIENT))
    loss, ce, ids, gradient = judge(jnp.asarray(images), (key, teacher))
    assert ids.tolist() == teacher.class_ids.tolist()
    assert gradient.shape == (toy.WAY, N, *toy.SHAPE)
    rows = images[np.asarray(teacher.class_ids)].reshape(-1, *toy.SHAPE)
    shifts = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
    views = augment.crop_flip(
        key, jnp.asarray(rows), padding=2, per_image=False, edges="wrap", flip=False
    )
    rolled = [np.roll(rows, shift, (1, 2)) for shift in shifts]
    gaps = [np.abs(views - other).max() for other in rolled]
    assert np.min(gaps) < 1e-6  # one and the same roll for the whole batch
    logits, moments = toy.TINY.apply_with_moments(teacher.variables, views)
    labels = np.repeat(np.arange(toy.WAY), N)
    log_p = np.asarray(jax.nn.log_softmax(logits))
    wanted = -log_p[np.arange(len(labels)), labels].mean()
    np.testing.assert_allclose(ce, wanted, rtol=1e-4)
    for layer, found in moments.items():
        stats = teacher.variables["batch_stats"][layer]
        for name in ("mean", "var"):
            wanted += 0.1 * np.linalg.norm(found[name] - stats[name])
    x = np.asarray((views - 0.5) / 0.5, np.float64)
    for gap in (
        x[:, 1:] - x[:, :-1],
        x[:, :, 1:] - x[:, :, :-1],
        x[:, 1:, 1:] - x[:, :-1, :-1],
        x[:, 1:, :-1] - x[:, :-1, 1:],
    ):
        wanted += 1e-2 * np.sqrt((gap**2).sum())
    wanted += 1e-2 * np.sqrt((x**2).sum())
    np.testing.assert_allclose(loss, wanted, rtol=1e-4)


def test_adversarial_gradient_is_that_of_finite_differences():
    """In float64; through the support images it needs the inner loop's derivative."""
    with jax.enable_x64(True):
        learner = maml(toy.TINY, num_steps=1, inner_lr=0.3)
        shapes = jax.eval_shape(toy.TINY.init, jax.random.key(0))["params"]
        params = toy.double(toy.random_like(shapes, 2, scale=0.4))
        rng = np.random.default_rng(3)
        images = jnp.asarray(rng.uniform(size=(toy.WAY, N, *toy.SHAPE)))
        counts = jnp.full((toy.WAY,), N)
        key = jax.random.key(9)
        gradient_of = jax.jit(hardness(learner, sample))
        _, gradient = gradient_of(images, key, params, counts)
        # Which rows are support? Mark every image with its own number.
        marks = jnp.arange(toy.WAY * N, dtype=jnp.float64).reshape(toy.WAY, N, 1)
        drawn = sample(key, ImageBank(marks, counts, jnp.zeros_like(counts)))
        for rows in (drawn.support_images, drawn.query_images):
            mask = np.zeros((toy.WAY * N, 1, 1, 1))
            mask[np.asarray(rows, int).ravel()] = 1
            mask = mask.reshape(toy.WAY, N, 1, 1, 1)
            direction = jnp.asarray(mask * rng.normal(size=images.shape))
            found = toy.central_difference(
                lambda x: gradient_of(x, key, params, counts)[0], images, direction
            )
            assert abs(found) > 1e-4
            np.testing.assert_allclose(toy.dot(gradient, direction), found, rtol=1e-5)


# ---- label order -----------------------------------------------------------------


def test_images_are_stored_under_the_class_their_teacher_sees():
    """True images of every class please a teacher only in its own label order."""
    teacher = zoo.take(toy.trained_teachers(), 0)
    # Outputs in another order than that of class ids, so that sorting changes them.
    order = jnp.array([2, 0, 1])
    params = teacher.variables["params"]
    head = jax.tree.map(lambda x: x[..., order], params["head"])
    variables = {**teacher.variables, "params": {**params, "head": head}}
    teacher = Teachers(variables, teacher.class_ids[order])
    gradient_of = inversion.white_box(OBJECTIVE._replace(crop_padding=0), toy.TINY)
    images = jnp.asarray(toy.patterns()[:, None], jnp.float32)  # one a class
    found = {}
    for label_order in ("teacher", "sorted"):
        judge = functools.partial(judge_block, gradient_of, label_order=label_order)
        _, ce, ids, _ = jax.jit(judge)(images, (jax.random.key(0), teacher))
        found[label_order] = float(ce), ids.tolist()
    default = jax.jit(functools.partial(judge_block, gradient_of))
    assert float(default(images, (jax.random.key(0), teacher))[1]) < 0.5
    assert found["teacher"][0] < 0.5 and found["teacher"][1] == [2, 0, 1]
    # The slip shows every image to its teacher as another class.
    assert found["sorted"][0] > 2.0 and found["sorted"][1] == [0, 1, 2]


# ---- one step --------------------------------------------------------------------


def start(algorithm, seed=0):
    """A state without compiling `init`'s many random numbers."""
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    zeros = toy.zeros_like(state)
    return zeros._replace(
        params=toy.random_like(state.params, seed, scale=0.4),
        pixels=toy.random_like(state.pixels, seed),
        curriculum=purer_curriculum.init(),
    )


@pytest.fixture(scope="module")
def teachers():
    found = toy.random_teachers(toy.TINY, 4)
    return found._replace(class_ids=found.class_ids % (toy.CLASSES - 1))


@functools.cache
def stepper():
    return toy.compiled_once(build())


@pytest.mark.parametrize("adversarial", [False, True])
def test_a_step_is_a_python_loop(teachers, adversarial):
    algorithm = build()
    state = start(algorithm)
    rule = state.curriculum._replace(adversarial=jnp.bool(adversarial))
    state = state._replace(curriculum=rule, step=jnp.int32(4))
    key = jax.random.key(7)
    found, info = stepper()(key, state, (teachers,))

    key_judge, key_harder, key_learn = jax.random.split(key, 3)
    key_draw, key_judge = jax.random.split(jax.random.fold_in(key_judge, 0))
    drawn = jax.random.permutation(key_draw, 4)[:2].tolist()
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.4])
    images = jnp.asarray(mean + std * np.asarray(state.pixels), jnp.float32)
    gradient, losses = np.zeros(images.shape), []
    for task_key, i in zip(jax.random.split(key_judge, 2), drawn, strict=True):
        teacher = zoo.take(teachers, i)
        ids = np.asarray(teacher.class_ids)
        rows = images[ids].reshape(-1, *toy.SHAPE)
        labels = jnp.repeat(jnp.arange(toy.WAY), N)
        loss, _, grads = jax.jit(GRADIENT)(task_key, rows, labels, teacher, None)
        losses.append(float(loss))
        for block, class_id in zip(np.split(np.asarray(grads), 3), ids, strict=True):
            gradient[class_id] += block
    known = np.unique(np.asarray(teachers.class_ids))
    counts = jnp.zeros(toy.CLASSES, jnp.int32).at[known].set(N)
    bank = ImageBank(images, counts, jnp.zeros_like(counts))
    if adversarial:
        episode = sample(key_harder, bank)
        assert set(episode.class_ids.tolist()) <= set(known.tolist())

        def hard(images):
            again = sample(key_harder, bank._replace(images=images))
            return LEARNER.loss(state.params, again)[0]

        gradient -= 4.0 * np.asarray(jax.jit(jax.grad(hard))(images))
    pixels = np.asarray(state.pixels) - 2.0 * gradient * std
    np.testing.assert_allclose(found.pixels, pixels, rtol=1e-3, atol=1e-5)
    bank = bank._replace(images=jnp.asarray(mean + std * pixels, jnp.float32))
    params, _, learned = jax.jit(update)(key_learn, state.params, state.opt, bank)
    toy.assert_close(found.params, params, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(info.inversion_loss, np.mean(losses), rtol=1e-4)
    np.testing.assert_allclose(info.replay_accuracy, learned.accuracy, rtol=1e-5)
    assert info.adversarial == adversarial and bool(info.is_finite)
    assert int(found.step) == 5 and not bool(found.curriculum.adversarial)


def test_prefix_weights_count_teachers_down(teachers):
    """With plain gradient descent the weights N..1 show in each class's pixels."""
    sure = teachers._replace(class_ids=jnp.arange(12).reshape(4, 3))
    zero = EpisodeInfo(jnp.zeros(()), jnp.zeros(()))
    # Nothing is learned: what the teachers do to the pixels stands alone.
    idle = LEARNER._replace(loss=lambda params, episode: (zero.loss, zero))
    ends = []
    for weighting in ("uniform", "prefix"):
        algorithm = build(
            idle,
            lambda key, params, opt, bank: (params, opt, zero),
            weighting=weighting,
            teachers_per_step=4,
            num_classes=12,
        )
        state = start(algorithm)
        found, _ = algorithm.compiled()(jax.random.key(0), state, (sure,))
        moved = np.linalg.norm((found.pixels - state.pixels).reshape(12, -1), axis=1)
        ends.append(moved)
    np.testing.assert_allclose(
        ends[1] / ends[0], np.repeat([4.0, 3.0, 2.0, 1.0], 3), rtol=1e-3
    )


def test_bank_is_clipped_bytes_of_known_classes(teachers):
    state = start(build())
    bank = as_bank(SOURCE, state, (teachers,))
    assert bank.images.dtype == jnp.uint8
    known = np.unique(np.asarray(teachers.class_ids))
    assert np.flatnonzero(bank.counts).tolist() == known.tolist()
    value = 0.4 + 0.3 * float(state.pixels[2, 1, 3, 4, 1])
    assert int(bank.images[2, 1, 3, 4, 1]) == int(255 * min(max(value, 0), 1))


def test_fixed_split_keeps_support_images():
    marks = jnp.arange(toy.WAY * N, dtype=jnp.float32).reshape(toy.WAY, N, 1)
    counts = jnp.full((toy.WAY,), N)
    bank = ImageBank(marks, counts, jnp.zeros_like(counts))
    supports = {"fixed": set(), "random": set()}
    for split, seen in supports.items():
        for i in range(20):
            drawn = sample(jax.random.key(i), bank, split=split)
            seen |= set(drawn.support_images.ravel().tolist())
    assert supports["fixed"] == {0.0, 3.0, 6.0} and len(supports["random"]) == 9
    with pytest.raises(ValueError, match="an episode needs 5 images"):
        episodes.sample_episode(jax.random.key(0), bank, way=3, shots=1, queries=4)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"teachers_per_step": (1, 1)}, "a whole number"),
        ({"teachers_per_step": 0}, "at least 1"),
        ({"images_per_class": 0}, "at least 1"),
        ({"curriculum": CurriculumOptions(patience=0)}, "at least 1"),
        ({"curriculum": CurriculumOptions(opening="x")}, "adversarial, patience"),
        ({"weighting": "even"}, "uniform, prefix"),
    ],
)
def test_contradictions_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        build(**change)


# ---- pools and the command line --------------------------------------------------


def toy_zoo(ids, accuracy):
    found = toy.random_teachers(toy.TINY, len(ids))
    found = found._replace(class_ids=jnp.asarray(ids, jnp.int32))
    names = tuple(f"class {i}" for i in range(toy.CLASSES))
    return Zoo((ZooGroup(toy.TINY, found, np.asarray(accuracy)),), names)


def test_disjoint_pool_is_the_best_packing():
    ids = [[0, 1, 2], [2, 3, 4], [3, 4, 5], [6, 7, 8], [0, 1, 5], [6, 7, 0]]
    pool = toy_zoo(ids, [0.5, 0.9, 0.6, 0.5, 0.9, 0.9])
    chosen = disjoint(pool, 3).teachers[0].class_ids.tolist()
    assert chosen in ([ids[0], ids[2], ids[3]], [ids[1], ids[3], ids[4]])
    assert chosen == [ids[1], ids[3], ids[4]]  # the more accurate of both
    first = disjoint(pool, 2).groups[0]
    assert not set(first.teachers.class_ids[0].tolist()) & set(
        first.teachers.class_ids[1].tolist()
    )
    assert first.accuracy.sum() == pytest.approx(1.8)
    with pytest.raises(InputError, match="6 teachers and 9 classes holds at most 3"):
        disjoint(pool, 4)
    twice = dataclasses.replace(pool.groups[0], accuracy=np.full(6, np.nan))
    assert disjoint(Zoo((twice,), pool.class_names), 3).num_teachers == 3


def parse(*extra, variant="smoke"):
    config = f"experiments/configs/purer_cifar_fs_5w1s.py:{variant}"
    return command_line.parse(["run.py", f"--config={config}", *extra]).config


@pytest.mark.slow
def test_smoke_run_and_its_pictures(tmp_path):
    arch = make_network("conv4", num_classes=5, image_shape=(32, 32, 3), width=4)
    names = procedural.make_split(
        "train", images_per_class=1, image_size=32
    ).class_names
    found = toy.random_teachers(arch, 3, classes=len(names))
    pool = ZooGroup(arch, found, np.full(3, 0.5), "procedural")
    save_zoo(Zoo((pool,), names), tmp_path / "zoo")
    small = (
        "--config.zoo.pretrain.num_teachers=0",
        f"--config.zoo.path={tmp_path / 'zoo'}",
        "--config.student.kwargs.width=4",
        "--config.num_steps=3",
        "--config.log.every_steps=1",
        "--config.eval.episodes=4",
        "--config.eval.val_episodes=0",
        "--config.eval.queries=2",
        "--config.replay.queries=2",
        "--config.learner.first_order=True",
        "--config.learner.test_steps=1",
        "--config.learner.train_steps=1",
        "--config.eval.yardsticks=()",
        "--config.calibration.inversion_steps=2",
        "--config.pixels.images_per_class=10",
    )
    result = train.main(parse(*small, variant="smoke,calibrate"), str(tmp_path / "run"))
    assert set(result["results"]) == {"purer (maml)", "purer (maml), calibrated"}
    assert (tmp_path / "run" / "recovered.png").stat().st_size > 0
    known = len(np.unique(np.asarray(found.class_ids)))
    assert result["images_recovered"] == 10 * known
    # The curriculum of the smoke variant starts with an adversarial step.
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 3
    assert any(json.loads(line)["adversarial"] for line in lines)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.pixels.images_per_class=3", "are learned"),
        ("--config.zoo.disjoint=13", "holds at most"),
        ("--config.pixels.weighting=even", "choose one of uniform, prefix"),
        ("--config.start=mean", "choose one of random, average"),
    ],
)
def test_bad_config_is_an_input_error(tmp_path, override, message):
    from experiments import methods
    from experiments.methods import checks

    config = parse("--config.way=3", "--config.zoo.pretrain.way=3", override)
    found = toy.random_teachers(toy.TINY, 2)
    pool = toy_zoo(np.asarray(found.class_ids), [0.5, 0.5])
    with pytest.raises(InputError, match=message):
        methods.build(
            checks.validate(config), pool, SimpleNamespace(map_tasks=parallel.map_tasks)
        )


@pytest.mark.parametrize(
    "ignored",
    [
        "num_steps=2",
        "decay=cosine",
        "keep=best",
        "meta_gradient=reptile",
        "source=generator",
        "generator.width=8",
    ],
)
def test_what_the_inversion_would_ignore_is_refused(ignored):
    from experiments.methods import checks

    key = ignored.partition("=")[0].partition(".")[0]
    with pytest.raises(InputError, match=rf"config\.inversion\.{key}=.*PURER"):
        checks.validate(parse(f"--config.inversion.{ignored}"))
    config = parse()
    config.inversion.estimator = inversion.Estimator()._asdict()
    with pytest.raises(InputError, match=r"estimator=.*PURER"):
        checks.validate(config)


def test_variants_name_pool_and_learner():
    config = parse(variant="reference,pool=disjoint13,learner=anil")
    assert config.recover.disjoint == config.recover.teachers_per_step == 13
    assert config.learner.kind == "anil" and config.init == "average"
    assert parse(variant="reference").recover.label_order == "sorted"
    with pytest.raises(InputError, match="disjointN"):
        parse(variant="pool=some")
    with pytest.raises(InputError, match="inner loop"):
        from experiments.methods import checks

        checks.validate(parse(variant="learner=protonet,calibrate"))


@pytest.mark.parametrize("head_only", [False, True])
def test_maml_and_anil_learn_from_pixels_too(teachers, head_only):
    learner = maml(toy.TINY, num_steps=1, head_only=head_only)
    found = replay.episodic_update(
        learner, OPTIMIZER, way=3, shots=SHOTS, queries=QUERIES, episodes_per_update=2
    )
    algorithm = build(learner, found)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    after, _ = jax.eval_shape(algorithm.step, jax.random.key(0), state, (teachers,))
    assert jax.tree.structure(after) == jax.tree.structure(state)
