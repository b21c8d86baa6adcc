"""Evaluation, the panel of teachers, and the training of teachers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from free_jax import panel
from free_jax.fewshot import banks, episodes, evaluation
from free_jax.fewshot.learners import maml
from free_jax.parallel import map_tasks
from free_jax.types import ImageBank, Teachers
from free_jax.zoo import pretraining

WAY, SHOTS, QUERIES = 5, 1, 3


def coded_bank(classes=8, rows=6):
    """Descriptions that say their class; the second number is the row."""
    grid = np.stack(np.meshgrid(np.arange(classes), np.arange(rows), indexing="ij"), -1)
    counts = jnp.full(classes, rows, jnp.int32)
    return ImageBank(jnp.asarray(grid, jnp.float32), counts, jnp.zeros_like(counts))


def oracle(params, episode):
    """Looks the class up; "constant" always says the first, "half" is random."""
    same = episode.query_images[:, None, 0] == episode.support_images[None, :, 0]
    first = jnp.zeros(same.shape).at[:, 0].set(1.0)
    odd = (episode.query_images.sum(1) % 2)[:, None]
    return {
        "perfect": same.astype(jnp.float32),
        "constant": first,
        "mixed": jnp.where(odd == 1, same.astype(jnp.float32), first) * params,
    }


def build(classify, **kwargs):
    settings = {"way": WAY, "shots": SHOTS, "queries": QUERIES, "num_episodes": 50}
    return evaluation.evaluator(classify, **{**settings, **kwargs})


def test_known_classifiers_get_known_accuracies(key):
    found = build(oracle)(key, jnp.float32(1), coded_bank())
    assert found["perfect"].mean == 100 and found["perfect"].ci95 == 0
    assert found["constant"].mean == pytest.approx(100 / WAY)
    assert found["constant"].ci95 == pytest.approx(0, abs=1e-5)
    values = found["mixed"].per_episode
    assert values.shape == (50,) and values.dtype == np.float32
    assert found["mixed"].mean == pytest.approx(values.mean(), rel=1e-5)
    spread = np.float64(values).std()
    assert found["mixed"].ci95 == pytest.approx(1.96 * spread / np.sqrt(50), rel=1e-5)
    assert str(found["perfect"]) == "100.00 +- 0.00"


def test_deterministic_and_compiled_once(key):
    traces = []

    def classify(params, episode):
        traces.append(1)
        return oracle(params, episode)

    evaluate = build(classify)
    bank = coded_bank()
    a = evaluate(key, jnp.float32(1), bank)
    count = len(traces)
    b = evaluate(key, jnp.float32(1), bank)
    c = evaluate(jax.random.key(1), jnp.float32(2), bank)
    assert len(traces) == count
    np.testing.assert_array_equal(a["mixed"].per_episode, b["mixed"].per_episode)
    assert (a["mixed"].per_episode != c["mixed"].per_episode).any()


def test_every_method_meets_the_same_episodes(key):
    """Methods that draw nothing themselves can be compared episode by episode."""

    def tell(params, episode):
        right = jax.nn.one_hot(episode.query_labels, WAY)
        # Right on query i exactly when a bit of the class id says so.
        bit = (episode.class_ids[episode.query_labels] % 2 == 0)[:, None]
        return {"bit": jnp.where(bit, right, 1.0 - right) * params}

    first = build(tell)(key, jnp.float32(1), coded_bank())
    second = build(tell, map_tasks=functools.partial(map_tasks, local="vmap"))(
        key, jnp.float32(3), coded_bank()
    )
    np.testing.assert_array_equal(first["bit"].per_episode, second["bit"].per_episode)
    keys = jax.random.split(key, 50)
    expected = []
    for one in keys[:5]:
        episode = episodes.sample_episode(
            one, coded_bank(), way=WAY, shots=SHOTS, queries=QUERIES
        )
        expected.append(100 * (np.asarray(episode.class_ids) % 2 == 0).mean())
    np.testing.assert_allclose(first["bit"].per_episode[:5], expected, rtol=1e-5)


def test_learner_classifier_reports_both_protocols():
    learner = maml(toy.TINY, num_steps=1)
    episode = toy.random_episode(shots=2)
    params = jax.tree.map(
        lambda x: 0.4 * x,
        toy.random_like(jax.eval_shape(learner.init, jax.random.key(0))),
    )

    @jax.jit
    def run():
        adapted = learner.adapt(params, episode.support_images, episode.support_labels)
        expected = {
            "transductive": learner.predict(adapted, episode.query_images),
            "inductive": learner.predict(adapted, episode.query_images, norm="running"),
        }
        return expected, evaluation.learner_classifier(learner)(
            {"params": params}, episode
        )

    expected, found = run()
    toy.assert_close(found, expected)
    assert jnp.abs(found["inductive"] - found["transductive"]).max() > 1e-3


def test_centroids_are_numpy():
    rng = np.random.default_rng(0)
    episode = toy.random_episode(shots=4, queries=3, way=WAY)
    support, queries = rng.normal(size=(20, 7)), rng.normal(size=(15, 7))
    episode = episode._replace(
        support_images=jnp.asarray(support, jnp.float32),
        query_images=jnp.asarray(queries, jnp.float32),
    )

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    def cosine(support, queries):
        labels = np.asarray(episode.support_labels)
        support = unit(support)
        centers = np.stack([support[labels == c].mean(0) for c in range(WAY)])
        return unit(queries) @ unit(centers).T

    center = np.concatenate([support, queries]).mean(0)
    found = evaluation.centroid_classifier(WAY)(None, episode)
    np.testing.assert_allclose(found["inductive"], cosine(support, queries), atol=1e-5)
    np.testing.assert_allclose(
        found["transductive"], cosine(support - center, queries - center), atol=1e-5
    )


# ---- the panel -------------------------------------------------------------------

LARGE = toy.tiny((20, 24, 3), width=6)
ARCHS = (toy.TINY, LARGE)


@pytest.fixture(scope="module")
def zoo():
    return toy.random_teachers(toy.TINY, 3), toy.random_teachers(LARGE, 2)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.uniform(size=(4, *toy.SHAPE)), jnp.float32)


def one_by_one(zoo, images, say):
    """A Python loop over groups and teachers."""
    parts = []
    for arch, stack in zip(ARCHS, zoo, strict=True):
        shape = (len(images), *arch.image_shape)
        resized = jax.image.resize(images, shape, "bilinear")
        for i in range(stack.class_ids.shape[0]):
            variables = jax.tree.map(lambda x, i=i: x[i], stack.variables)
            parts.append(say(arch, variables, resized))
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("output", ["probabilities", "logits", "features"])
def test_descriptions_are_a_loop_over_teachers(zoo, images, output):
    mirror = output != "logits"

    def say(arch, variables, images):
        def once(x):
            out = arch.apply(variables, x, features=output == "features")
            if output == "probabilities":
                return jax.nn.softmax(out / 2.0) - 1 / toy.WAY
            if output == "features":
                return out / jnp.linalg.norm(out, axis=1, keepdims=True)
            return out

        return (once(images) + once(images[:, :, ::-1])) / 2 if mirror else once(images)

    say = jax.jit(say, static_argnums=0)
    describe = panel.describer(ARCHS, output=output, temperature=2.0, mirror=mirror)
    found = jax.jit(describe)(zoo, images)
    np.testing.assert_allclose(
        found, one_by_one(zoo, images, say), rtol=1e-4, atol=1e-5
    )
    if output == "probabilities":  # Chance is subtracted: every teacher sums to zero.
        assert found.shape == (4, 5 * toy.WAY)
        sums = found.reshape(4, 5, toy.WAY).sum(-1)
        np.testing.assert_allclose(sums, 0, atol=1e-6)


def test_a_bank_is_described_in_padded_chunks(zoo):
    bank = toy.bank(per_class=3, classes=3)
    describe = functools.partial(jax.jit(panel.describer(ARCHS[:1])), zoo[:1])
    found = panel.describe_bank(describe, bank, chunk=4)
    flat = bank.images.reshape(9, *toy.SHAPE).astype(jnp.float32) / 255
    expected = describe(flat)
    np.testing.assert_allclose(
        found.images, expected.reshape(3, 3, -1), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(found.counts, bank.counts)


def test_a_meaningless_temperature_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        panel.describer(ARCHS, temperature=0.0)


def honest_answers(rng, class_ids, classes, sharpness=4.0):
    """Logits [N, T, W] of teachers that know their classes and guess others."""
    logits = rng.normal(size=(len(classes), *class_ids.shape))
    return logits + sharpness * (class_ids[None] == classes[:, None, None])


def test_trust_finds_constant_broken_mislabelled_and_random_teachers():
    rng = np.random.default_rng(0)
    class_ids = np.stack([rng.permutation(12)[:5] for _ in range(16)])
    owners = np.repeat(np.arange(16), 20)
    classes = np.concatenate([np.repeat(ids, 4) for ids in class_ids])
    logits = honest_answers(rng, class_ids, classes)
    logits[:, 3] = [2.0, 0, 0, 0, 0]  # constant
    logits[5, 6, 1] = np.nan
    logits[:, 9] = np.roll(logits[:, 9], 1, axis=1)  # permuted labels
    logits[:, 12] = rng.normal(size=(len(classes), 5))  # random
    found = panel.trust(logits, class_ids, classes, owners)
    bad = [3, 6, 9, 12]
    assert (found.weights[bad] == 0).all(), found.weights
    assert (np.delete(found.weights, bad) == 1).all(), found.weights
    assert found.information[3] == pytest.approx(0, abs=1e-6)
    assert found.agreement[9] < 0.2 < 0.9 < found.agreement[0]


def test_trust_without_classes_goes_by_information():
    rng = np.random.default_rng(1)
    class_ids = np.asarray([[0, 1, 2]])
    nobody = np.full(30, -1)
    logits = 3 * rng.normal(size=(30, 1, 3))
    assert panel.trust(logits, class_ids, nobody, nobody).weights.tolist() == [1.0]
    constant = np.zeros_like(logits)
    assert panel.trust(constant, class_ids, nobody, nobody).weights.tolist() == [0.0]


# ---- pretraining -----------------------------------------------------------------


def test_teachers_train_alike_alone_and_mapped():
    bank = toy.bank(per_class=8)
    optimizer = optax.sgd(0.05, momentum=0.9)
    init, epoch, evaluate = pretraining.teacher_trainer(
        toy.TINY, optimizer, images_per_class=6, batch_size=6
    )
    ids = jnp.asarray([[0, 4, 2], [5, 1, 8]], jnp.int32)
    variables = toy.random_teachers(toy.TINY, 2).variables
    opt = jax.vmap(optimizer.init)(variables["params"])
    states = pretraining.TeacherState(variables, opt)
    assert jax.tree.map(lambda x: x.shape[1:], states) == jax.tree.map(
        jnp.shape, jax.eval_shape(init, jax.random.key(0))
    )
    run = jax.jit(map_tasks(epoch, local="vmap"))
    alone = jax.jit(epoch)
    losses = []
    for i in range(4):
        before = states
        epoch_keys = jax.random.split(jax.random.key(i), 2)
        states, info = run(bank, (epoch_keys, ids, states))
        losses.append(np.asarray(info.loss))
        if i == 0:
            for t in range(2):
                task = epoch_keys, ids, before
                single = alone(bank, jax.tree.map(lambda x, t=t: x[t], task))
                both = jax.tree.map(lambda x, t=t: x[t], (states, info))
                toy.assert_close(both, single, rtol=1e-3, atol=1e-4)
    assert (losses[-1] < losses[0]).all(), losses
    # Held-out accuracy by hand: rows 6 and 7 of each class.
    for t in range(2):
        variables = jax.tree.map(lambda x, t=t: x[t], states.variables)
        held_out = bank.images[ids[t], 6:].reshape(-1, *toy.SHAPE) / 255.0
        logits = jax.jit(toy.TINY.apply)(variables, held_out)
        right = np.asarray(logits).argmax(1) == np.repeat(range(3), 2)
        found = jax.jit(evaluate)(bank, (ids[t], variables))
        np.testing.assert_allclose(found, right.mean(), rtol=1e-5)


def test_padding_rows_are_not_evaluated():
    bank = toy.bank(per_class=6)
    counts = bank.counts.at[0].set(4)
    garbage = bank.images.at[0, 4:].set(0)
    short = banks.from_arrays(np.asarray(garbage), np.asarray(counts))
    _, _, evaluate = pretraining.teacher_trainer(
        toy.TINY, optax.sgd(0.1), images_per_class=3, batch_size=3
    )
    teacher = jax.tree.map(lambda x: x[0], toy.random_teachers(toy.TINY, 1))
    ids = jnp.arange(3, dtype=jnp.int32)
    found = jax.jit(evaluate)(short, (ids, teacher.variables))
    rows = [np.asarray(short.images[c, 3 : counts[c]]) for c in range(3)]
    images = jnp.asarray(np.concatenate(rows), jnp.float32) / 255
    labels = np.repeat(range(3), [len(r) for r in rows])
    logits = jax.jit(toy.TINY.apply)(teacher.variables, images)
    expected = (np.asarray(logits).argmax(1) == labels).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(ValueError, match="batch_size=10 exceeds the 9"):
        pretraining.teacher_trainer(
            toy.TINY, optax.sgd(0.1), images_per_class=3, batch_size=10
        )


def test_toy_teachers_know_their_classes():
    teachers = toy.trained_teachers()
    assert isinstance(teachers, Teachers)
    bank = toy.bank()
    for t in range(3):
        variables = jax.tree.map(lambda x, t=t: x[t], teachers.variables)
        held_out = bank.images[teachers.class_ids[t], 20:]
        held_out = held_out.reshape(-1, *toy.SHAPE).astype(jnp.float32) / 255
        logits = np.asarray(jax.jit(toy.TINY.apply)(variables, held_out))
        assert (logits.argmax(1) == np.repeat(range(3), 10)).mean() > 0.8
