"""Panel distillation against its loss by hand, and whether a student learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from free_jax import augment, panel
from free_jax.fewshot.episodes import to_float
from free_jax.inversion import dead_leaves
from free_jax.panel.described import Described
from free_jax.panel.distillation import panel_distillation
from free_jax.zoo.supervised import supervised_step

T, BATCH, TEMPERATURE = 4, 6, 2.0
STUDENT = dataclasses.replace(toy.TINY, num_classes=T * toy.WAY)


def build(**kwargs):
    options = {"optimizer": optax.sgd(0.1), "batch_size": BATCH, "crop_padding": 0}
    options |= {"temperature": TEMPERATURE} | kwargs
    return panel_distillation(
        STUDENT, columns=panel.equal_columns(T, toy.WAY), **options
    )


@pytest.fixture(scope="module")
def data():
    keys = jax.random.split(jax.random.key(0), 2)
    images = jax.random.randint(keys[0], (9, *toy.SHAPE), 0, 256).astype(jnp.uint8)
    # Mirrored images look the same, so that a random flip changes nothing.
    images = jnp.concatenate([images, images[:, :, ::-1]], 2)[:, :, 8:24]
    logits = 3 * jax.random.normal(keys[1], (9, T, toy.WAY)).reshape(9, -1)
    yes, weights = jnp.ones(9, bool), jnp.asarray([1.0, 0.5, 0.0, 1.0])
    columns = panel.equal_columns(T, toy.WAY)
    return Described(images, logits, columns, weights, recovered=yes, natural=yes)


@jax.jit
def of_a_batch(params, images):
    """Logits and features, normalised by the batch."""
    return tuple(
        STUDENT.apply(params, images, norm="batch", features=x) for x in (False, True)
    )


def by_hand(variables, data, rows, similarity):
    """Loops over images and heads, with numpy and scipy's definition of the KL."""
    images = np.asarray(data.images)[rows].astype(np.float32) / 255
    params, answers = {"params": variables["params"]}, np.asarray(data.logits)
    logits, features = toy.host(of_a_batch(params, images))
    total, said = 0.0, []
    for row, image in zip(rows, logits, strict=True):
        description = []
        for t in range(len(data.weights)):
            outputs = slice(data.columns[t], data.columns[t + 1])
            p_t = np.exp(answers[row, outputs] / TEMPERATURE)
            p_t /= p_t.sum()
            mine = image[outputs] / TEMPERATURE
            p_s = np.exp(mine) / np.exp(mine).sum()
            weight = float(data.weights[t])
            total += weight * (p_t * np.log(p_t / p_s)).sum()
            description.append(weight * (p_t - 1 / len(p_t)))
        said.append(np.concatenate(description))
    total /= len(rows) * float(data.weights.sum())

    def cosines(x):
        x = x - x.mean(0)
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return x @ x.T

    gap = cosines(features) - cosines(np.stack(said))
    return total + similarity * np.square(gap).mean()


@pytest.mark.parametrize("similarity", [0.0, 0.7])
def test_loss_is_the_weighted_kl_of_every_head(data, similarity):
    algorithm = build(similarity=similarity)
    state = jax.jit(algorithm.init)(jax.random.key(1))
    key = jax.random.key(2)
    _, info = jax.jit(algorithm.step)(key, state, data)
    rows = np.asarray(jax.random.randint(jax.random.split(key, 3)[0], (BATCH,), 0, 9))
    expected = by_hand(state.variables, data, rows, similarity)
    np.testing.assert_allclose(info.distill_loss, expected, rtol=1e-4)
    assert bool(info.is_finite)


@pytest.mark.parametrize("similarity", [0.0, 0.7])
def test_equal_ways_are_distilled_to_the_bit_as_before_columns(data, similarity):
    """The former step, on answers [N, T, W]."""
    optimizer = optax.sgd(0.1)
    algorithm = build(similarity=similarity, optimizer=optimizer, mix="mixup")

    def cosines(x):
        x = x - x.mean(0)
        x = x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-8)
        return x @ x.T

    def loss_fn(params, images, targets, weights):
        features, moments = STUDENT.apply_with_moments(
            {"params": params}, images, norm="batch", features=True
        )
        logits = STUDENT.head(params, features)
        log_s = jax.nn.log_softmax(logits.reshape(targets.shape) / TEMPERATURE)
        rows = jax.scipy.special.xlogy(targets, targets) - targets * log_s
        loss = (rows.sum(-1) * weights).sum(-1).mean() / weights.sum()
        if similarity:
            said = (targets - targets.mean(-1, keepdims=True)) * weights[:, None]
            gap = cosines(features) - cosines(said.reshape(said.shape[0], -1))
            loss += similarity * jnp.square(gap).mean()
        same = (log_s.argmax(-1) == targets.argmax(-1)).astype(jnp.float32)
        return loss, (moments, (same * weights).sum(-1).mean() / weights.sum())

    update = supervised_step(loss_fn, optimizer, 0.95)

    @jax.jit
    def former(key, state, images, logits, weights):
        key_rows, key_views, key_mix = jax.random.split(key, 3)
        rows = jax.random.randint(key_rows, (BATCH,), 0, images.shape[0])
        views = augment.crop_flip(key_views, to_float(images[rows]), padding=0)
        targets = jax.nn.softmax(logits[rows] / TEMPERATURE)
        views, targets = augment.mix_pairs(key_mix, views, targets, "mixup")
        return update(state.variables, state.opt, (views, targets), weights)

    state = jax.jit(algorithm.init)(jax.random.key(1))
    found, info = jax.jit(algorithm.step)(jax.random.key(2), state, data)
    logits = data.logits.reshape(len(data.logits), T, toy.WAY)
    wanted = former(jax.random.key(2), state, data.images, logits, data.weights)
    toy.assert_equal(
        (found.variables, found.opt, info.distill_loss, info.agreement), wanted
    )


@pytest.mark.parametrize("similarity", [0.0, 0.7])
def test_unequal_ways_are_a_loop_over_heads(data, similarity):
    columns = np.asarray([0, 2, 7, 12], np.int32)
    data = data._replace(columns=columns, weights=jnp.asarray([1.0, 0.5, 2.0]))
    algorithm = panel_distillation(
        STUDENT,
        columns=columns,
        optimizer=optax.sgd(0.1),
        batch_size=BATCH,
        crop_padding=0,
        temperature=TEMPERATURE,
        similarity=similarity,
    )
    state = jax.jit(algorithm.init)(jax.random.key(1))
    new, info = jax.jit(algorithm.step)(jax.random.key(2), state, data)
    rows = jax.random.split(jax.random.key(2), 3)[0]
    rows = np.asarray(jax.random.randint(rows, (BATCH,), 0, 9))
    expected = by_hand(state.variables, data, rows, similarity)
    np.testing.assert_allclose(info.distill_loss, expected, rtol=1e-4)
    for leaf in jax.tree.leaves(new.variables):
        assert np.isfinite(leaf).all()


def test_one_output_a_class_is_shared_by_the_teachers_that_know_it(data):
    ids = np.random.default_rng(0).permuted(np.tile(np.arange(7), (T, 1)), axis=1)
    ids = ids[:, : toy.WAY].ravel()
    algorithm = build(class_ids=ids)
    state = jax.jit(algorithm.init)(jax.random.key(1))
    assert state.variables["params"]["head"]["kernel"].shape[-1] == len(np.unique(ids))
    whole = algorithm.model(state)
    assert whole["params"]["head"]["kernel"].shape[-1] == T * toy.WAY
    new, info = jax.jit(algorithm.step)(jax.random.key(2), state, data)
    rows = jax.random.split(jax.random.key(2), 3)[0]
    rows = np.asarray(jax.random.randint(rows, (BATCH,), 0, 9))
    expected = by_hand(whole, data, rows, 0.0)
    np.testing.assert_allclose(info.distill_loss, expected, rtol=1e-4)
    # What one output of a class does, all do: the sum of what each would do alone.
    kernel = np.asarray(algorithm.model(new)["params"]["head"]["kernel"])
    for one in np.unique(ids):
        same = kernel[:, ids == one]
        np.testing.assert_array_equal(same, np.broadcast_to(same[:, :1], same.shape))
    alone = build()
    free = jax.jit(alone.init)(jax.random.key(1))._replace(variables=whole)
    free = free._replace(opt=optax.sgd(0.1).init(whole["params"]))
    moved, _ = jax.jit(alone.step)(jax.random.key(2), free, data)
    before = np.asarray(whole["params"]["head"]["kernel"])
    apart = np.asarray(moved.variables["params"]["head"]["kernel"]) - before
    together = kernel - before
    for one in np.unique(ids):
        np.testing.assert_allclose(
            together[:, ids == one][:, 0],
            apart[:, ids == one].sum(1),
            rtol=1e-4,
            atol=1e-7,
        )


def test_class_heads_are_an_option_and_need_the_classes():
    columns, ids = panel.equal_columns(T, toy.WAY), np.arange(T * toy.WAY) % 4
    options = panel.DistillOptions(heads="class")
    made = panel.distillation(STUDENT, columns, options, 2, class_ids=ids)
    shapes = jax.eval_shape(made.init, jax.random.key(0)).variables["params"]
    assert shapes["head"]["bias"].shape == (4,)
    with pytest.raises(ValueError, match="give class_ids"):
        panel.distillation(STUDENT, columns, options, 2)
    with pytest.raises(ValueError, match="3 class ids for 12 outputs"):
        panel.distillation(STUDENT, columns, options, 2, class_ids=ids[:3])


def test_teachers_of_weight_zero_change_nothing(data):
    algorithm = build(similarity=0.5)
    state = jax.jit(algorithm.init)(jax.random.key(1))
    step = jax.jit(algorithm.step)
    other = data._replace(logits=data.logits.at[:, 6:9].set(-5.0))
    one, _ = step(jax.random.key(2), state, data)
    two, _ = step(jax.random.key(2), state, other)
    toy.assert_close(one.variables, two.variables, rtol=1e-5, atol=1e-7)


def test_a_student_learns_its_panel_and_keeps_running_statistics():
    """Answers that depend on the image can be learnt."""
    images = np.random.default_rng(0).integers(0, 256, (40, *toy.SHAPE), np.uint8)
    brightness = images.astype(np.float32).mean((1, 2)) / 255  # [40, 3]
    logits = 100 * (brightness - brightness.mean(0))[:, None, :] * np.ones((1, T, 1))
    logits = jnp.asarray(logits.reshape(40, -1), jnp.float32)
    images, columns = jnp.asarray(images), panel.equal_columns(T, 3)
    yes = jnp.ones(40, bool)
    data = Described(images, logits, columns, jnp.ones(T), recovered=yes, natural=yes)
    algorithm = build(optimizer=optax.adam(1e-2), batch_size=20, momentum=0.5)
    step = jax.jit(algorithm.step)

    def train(steps):
        state = jax.jit(algorithm.init)(jax.random.key(1))
        infos = []
        for i in range(steps):
            state, info = step(jax.random.fold_in(jax.random.key(2), i), state, data)
            infos.append(info)
        return state, infos

    state, infos = train(80)
    losses = [float(info.distill_loss) for info in infos]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3]), losses
    # Evaluated by running statistics the student says what it says in training.
    variables = algorithm.model(state)
    views = images.astype(jnp.float32) / 255
    running = jax.jit(STUDENT.apply)(variables, views)
    batch, _ = of_a_batch({"params": variables["params"]}, views)
    assert (running.argmax(1) == batch.argmax(1)).mean() > 0.7


@pytest.mark.parametrize("form", ["mixup", "cutmix"])
def test_mixing_blends_images_and_answers_in_one_proportion(key, form):
    n = 64
    flat = jnp.arange(n) / n
    images = jnp.broadcast_to(flat[:, None, None, None], (n, 8, 10, 1))
    mixed, targets = augment.mix_pairs(key, images, flat[:, None], form)
    np.testing.assert_allclose(mixed.mean((1, 2, 3)), targets[:, 0], atol=1e-5)
    assert jnp.abs(targets[:, 0] - flat).mean() > 0.05
    values = [len(np.unique(np.asarray(image).round(6))) for image in mixed]
    assert max(values) == (1 if form == "mixup" else 2)


def test_wrapped_shifts_keep_every_pixel(key):
    images = jax.random.uniform(jax.random.key(1), (5, 8, 8, 3))
    moved = augment.crop_flip(key, images, padding=3, edges="wrap")
    np.testing.assert_allclose(
        np.sort(moved.reshape(5, -1)), np.sort(images.reshape(5, -1)), rtol=1e-6
    )
    assert jnp.abs(moved - images).max() > 0.1


def test_scenes_are_varied_images_and_repeat_with_the_key():
    draw = jax.jit(jax.vmap(lambda k: dead_leaves.draw(k, (24, 32, 3))))
    keys = jax.random.split(jax.random.key(0), 30)
    images = draw(keys)
    assert images.shape == (30, 24, 32, 3)
    assert images.min() >= 0 and images.max() <= 1
    np.testing.assert_array_equal(images, draw(keys))
    assert images.mean((1, 2, 3)).std() > 0.03  # between scenes
    assert images.std((1, 2)).mean() > 0.05  # within
    # Neighbouring pixels agree far more than distant ones, as in photographs.
    near = jnp.abs(images[:, :, 1:] - images[:, :, :-1]).mean()
    far = jnp.abs(images[:, :, 16:] - images[:, :, :-16]).mean()
    assert near < 0.6 * far
    with pytest.raises(ValueError, match="one or three channels"):
        dead_leaves.draw(keys[0], (8, 8, 2))


def test_meaningless_options_are_refused():
    with pytest.raises(ValueError, match="must be positive"):
        build(temperature=0.0)
    columns = panel.equal_columns(5, toy.WAY)
    with pytest.raises(ValueError, match="12 outputs are not those of 5 teachers, 15"):
        panel_distillation(STUDENT, columns=columns, optimizer=optax.sgd(0.1))
