"""Ranges, labels and numbers that are none: refused or said, never finite nonsense."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from toy import ARCH as NETWORK

from free_jax import panel, predictor
from free_jax.baselines.hypernetwork import robust_hypernetwork
from free_jax.errors import InputError
from free_jax.fewshot import banks, evaluation, heads, labels
from free_jax.fewshot.learners import maml, protonet
from free_jax.images import checked
from free_jax.panel import model as distilled
from free_jax.types import ImageBank
from free_jax.zoo import pretraining

WAY = NETWORK.num_classes


@pytest.fixture(scope="module")
def pixels():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (2 * WAY, *NETWORK.image_shape), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(pixels):
    """A distilled model of one teacher; its statistics are those of the images."""
    variables = NETWORK.init(jax.random.key(0))
    return distilled.fit_statistics(
        NETWORK, variables, jnp.asarray(pixels), weights=jnp.ones(1), temperature=4.0
    )


def balanced():
    return jnp.tile(jnp.arange(WAY), 2)


def forms(pixels):
    """The same images as they come: bytes, wider integers, floats."""
    return pixels, pixels.astype(np.int32), np.float32(pixels) / 255


@pytest.mark.parametrize("door", ["apply", "embed", "adapt", "classify"])
def test_all_forms_of_images_give_the_same(door, pixels, model):
    labels = balanced()
    adapt = functools.partial(distilled.adapt, way=WAY, num_steps=1)
    start = distilled.adapt(
        NETWORK, model, jnp.asarray(pixels), labels, way=WAY, num_steps=0
    )
    doors = {
        "apply": lambda x: NETWORK.apply(model, x),
        "embed": lambda x: distilled.embed(NETWORK, model, x),
        "adapt": lambda x: adapt(NETWORK, model, x, labels).kernel,
        "classify": lambda x: distilled.classify(NETWORK, start, x),
    }
    found = [doors[door](jnp.asarray(x)) for x in forms(pixels)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    np.testing.assert_allclose(found[0], found[2], atol=1e-5)
    if door != "apply":  # Inversion applies networks to pixels that leave the range.
        with pytest.raises(InputError, match=r"values from 0 to 255.*divide by 255"):
            doors[door](jnp.asarray(pixels, jnp.float32))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x[0], r"pictures: images have the shape \(\d+, \d+, 3\)"),
        (lambda x: x[..., 0], r"pictures: images have the shape .*grey ones"),
        (lambda x: [x[0], x[0, 1:]], "pictures: the images differ in size"),
        (lambda x: x.transpose(0, 3, 1, 2), "channels are the last axis"),
        (lambda x: x.astype(str), "pictures: images are <U"),
        (lambda x: x.astype(object), "pictures: images are object"),
        (lambda x: x.astype(np.complex64), "pictures: images are complex64"),
    ],
)
def test_what_is_no_batch_of_images_is_said_in_one_line(
    spoil, said, pixels, model, monkeypatch
):
    # Users have no checker of types, which would refuse them before the library does.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError, match=said):
        predictor.classify(
            NETWORK, model, {}, pixels, np.asarray(balanced()), spoil(pixels), size=2
        )


def test_banks_of_images_are_in_range():
    counts = np.asarray([2, 2])
    floats = np.full((2, 2, 4, 4, 3), 255.0, np.float32)
    with pytest.raises(InputError, match=r"a bank of images.*divide by 255"):
        banks.from_arrays(floats, counts)
    with pytest.raises(InputError, match="undo the normalisation"):
        banks.from_arrays(floats / 255 - 2.0, counts)
    with pytest.raises(InputError, match="values from"):
        banks.from_arrays(floats * np.nan, counts)
    assert banks.from_arrays(np.full((2, 2, 7), 9.0), counts).images.shape == (2, 2, 7)
    run = evaluation.evaluator(
        lambda variables, episode: {}, way=2, shots=1, queries=1, num_episodes=1
    )
    bank = ImageBank(jnp.asarray(floats), jnp.asarray(counts), jnp.asarray(counts))
    with pytest.raises(InputError, match="evaluation: images hold values"):
        run(jax.random.key(0), None, bank)


def test_a_little_outside_is_rounding_and_tracers_pass():
    checked(np.asarray([-0.0005, 1.0005]), "x")
    with pytest.raises(InputError):
        checked(np.asarray([0.0, 1.01]), "x")
    with pytest.raises(InputError, match="from -3 to 4"):
        checked(np.asarray([-3, 4]), "x")
    assert float(jax.jit(lambda x: checked(x, "x"))(jnp.asarray(255.0))) == 255


@pytest.mark.parametrize(
    "head",
    [heads.nearest_centroid, heads.soft_kmeans, heads.ridge, heads.logistic],
)
@pytest.mark.parametrize("bad", [[1, 2, 3], [-1, 0, 1], [64, 7, 12]])
def test_heads_refuse_labels_out_of_range(head, bad):
    rows = jnp.eye(3)
    with pytest.raises(InputError, match=r"labels from .* expected 0 to 2; .*relative"):
        head(3)(rows, jnp.asarray(bad), rows)
    good = labels.relative(np.asarray(bad))
    answers = head(3)(rows, jnp.asarray(good.labels), rows)
    np.testing.assert_array_equal(good.classes[answers.argmax(1)], bad)
    with pytest.raises((InputError, TypeError), match=r"integers|Int"):
        head(3)(rows, jnp.ones(3), rows)


@pytest.mark.parametrize("learner", [maml, protonet])
def test_learners_and_adaptation_refuse_labels_out_of_range(learner, pixels, model):
    made = learner(NETWORK)
    images = jnp.asarray(pixels) / 255
    with pytest.raises(InputError, match="adapt: labels from 1 to"):
        made.adapt(model["params"], images, balanced() + 1)
    with pytest.raises(InputError, match="adapt: labels from 1 to"):
        distilled.adapt(NETWORK, model, images, balanced() + 1, way=WAY)


def test_scores_that_are_not_finite_are_no_figure(key):
    """They looked like chance: no number is the largest, so class 0 was said."""
    grid = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((5, 4, 2))
    bank = banks.from_arrays(grid, np.full(5, 4))

    def classify(variables, episode):
        right = jax.nn.one_hot(episode.query_labels, 5)
        sometimes = jnp.where(episode.class_ids[0] == 0, jnp.nan, 1.0)
        return {"nan": right * jnp.nan, "some": right * sometimes, "right": right}

    run = evaluation.evaluator(classify, way=5, shots=1, queries=1, num_episodes=40)
    found = run(key, None, bank)
    assert found["nan"].failed == 40 and np.isnan(found["nan"].mean)
    assert 0 < found["some"].failed < 40 and np.isnan(found["some"].mean)
    assert str(found["some"]).startswith("not finite in ")
    assert found["right"].failed == 0 and found["right"].mean == 100
    one = evaluation.summarize(np.asarray([0.5]))
    assert str(one) == "50.00" and np.isnan(one.ci95)


def test_a_diverged_adaptation_is_said(key, pixels):
    images = jnp.asarray(pixels).reshape(2, WAY, *NETWORK.image_shape).swapaxes(0, 1)
    bank = banks.from_arrays(np.asarray(images), np.full(WAY, 2))
    learner = maml(NETWORK, inner_lr=1e20)
    run = evaluation.evaluator(
        evaluation.learner_classifier(learner),
        way=WAY,
        shots=1,
        queries=1,
        num_episodes=2,
    )
    found = run(key, {"params": jax.jit(learner.init)(key)}, bank)
    assert found["transductive"].failed == 2


def test_constant_descriptions_have_gradients_and_no_whitening():
    rows = jnp.zeros((4, 3))
    slope = jax.grad(lambda x: heads.unit(x).sum())(rows)
    np.testing.assert_array_equal(slope, 0)
    same = jnp.ones((4, 3))
    mean, matrix = heads.whitening(same, 0.5)
    assert np.isfinite(heads.whiten(same, mean, matrix)).all()
    # What is not zero is as before.
    x = jax.random.normal(jax.random.key(0), (5, 3))
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    np.testing.assert_allclose(heads.unit(x), x / (norm + 1e-8), rtol=1e-6)


def test_adapting_on_a_constant_description_stays_finite(pixels, model):
    """All weights zero: every description is the same, here zero."""
    silent = {**model, "params": jax.tree.map(jnp.zeros_like, model["params"])}
    images = jnp.asarray(pixels)
    adapted = distilled.adapt(NETWORK, silent, images, balanced(), way=WAY, num_steps=2)
    scores = distilled.classify(NETWORK, adapted, images)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("teachers", [2, 3, 4, 5, 7, 8])
def test_the_robust_fit_of_few_teachers_does_not_diverge(key, teachers):
    rows = 3 + jax.random.normal(key, (teachers, 50))
    algorithm = robust_hypernetwork()

    @jax.jit
    def fit(rows):
        state = algorithm.init(key, rows)
        steps = jax.random.split(key, 300)
        state, info = jax.lax.scan(
            lambda s, k: algorithm.step(k, s, rows), state, steps
        )
        return algorithm.model(state)["params"], info.loss

    params, losses = fit(rows)
    assert np.isfinite(losses).all() and losses[-1] < 1e-2
    np.testing.assert_allclose(params, rows.mean(0), atol=0.1)


@pytest.mark.slow
def test_one_small_class_limits_only_the_teachers_that_know_it(key):
    """The smallest of ALL classes decided: one of 6 images left 4 of 40 to all."""
    rng = np.random.default_rng(0)
    counts = np.asarray([40] * 6 + [6])
    images = rng.integers(0, 256, (7, 40, *NETWORK.image_shape), dtype=np.uint8)
    images[6, 6:] = 0
    bank = banks.from_arrays(images, counts)
    init, epoch, evaluate = pretraining.teacher_trainer(
        NETWORK,
        optax.sgd(0.1),
        images_per_class=32,
        batch_size=24,
        train_fraction=0.8,
    )
    plain = pretraining.teacher_trainer(
        NETWORK, optax.sgd(0.1), images_per_class=32, batch_size=24
    )
    large, small = jnp.arange(3), jnp.asarray([5, 6, 1])
    state = init(key)
    # A teacher of large classes trains as before.
    ours, _ = jax.jit(epoch)(bank, (key, large, state))
    theirs, _ = jax.jit(plain[1])(bank, (key, large, state))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    # The other sees 4 images of each class, none of the zeros behind its smallest.
    again = bank._replace(images=bank.images.at[:, 4:].set(255))
    for a, b in zip(
        jax.tree.leaves(jax.jit(epoch)(bank, (key, small, state))),
        jax.tree.leaves(jax.jit(epoch)(again, (key, small, state))),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    # Its accuracy is that of all other images it has.
    logits = [NETWORK.apply(state.variables, bank.images[c]) for c in small]
    right = [
        np.asarray(row[4 : counts[c]]).argmax(-1) == i
        for i, (c, row) in enumerate(zip(small.tolist(), logits, strict=True))
    ]
    wanted = np.concatenate(right).mean()
    found = evaluate(bank, (small, state.variables))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_rows_that_a_class_does_not_hold_are_not_described():
    """Of 4,400 images with one class of 4,000, most of the bank is padding."""
    seen = []

    def embed(images):
        seen.append(int((images[:, 0, 0, 0] > 0).sum()))
        return images.reshape(len(images), -1)[:, :2].astype(jnp.float32)

    images = np.full((3, 10, 2, 2, 3), 9, np.uint8)
    counts = np.asarray([10, 1, 2])
    bank = panel.embed_bank(embed, banks.from_arrays(images, counts), chunk=4)
    assert sum(seen) == 13 and len(seen) == 4
    held = np.arange(10) < counts[:, None]
    np.testing.assert_array_equal(bank.images[..., 0], 9 * held)
