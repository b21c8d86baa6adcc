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
from free_jax.types import Answers, ImageBank, SyntheticImages, Teachers
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
    params = toy.random_like(jax.eval_shape(learner.init, jax.random.key(0)), scale=0.4)

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
    embed = panel.embedder(ARCHS, output=output, temperature=2.0, mirror=mirror)
    found = jax.jit(embed)(zoo, images)
    np.testing.assert_allclose(
        found, one_by_one(zoo, images, say), rtol=1e-4, atol=1e-5
    )
    if output == "probabilities":  # Chance is subtracted: every teacher sums to zero.
        assert found.shape == (4, 5 * toy.WAY)
        sums = found.reshape(4, 5, toy.WAY).sum(-1)
        np.testing.assert_allclose(sums, 0, atol=1e-6)


def test_a_bank_is_described_in_padded_chunks(zoo):
    bank = toy.bank(per_class=3, classes=3)
    embed = functools.partial(jax.jit(panel.embedder(ARCHS[:1])), zoo[:1])
    found = panel.embed_bank(embed, bank, chunk=4)
    flat = bank.images.reshape(9, *toy.SHAPE).astype(jnp.float32) / 255
    expected = embed(flat)
    np.testing.assert_allclose(
        found.images, expected.reshape(3, 3, -1), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(found.counts, bank.counts)


def test_a_meaningless_temperature_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        panel.embedder(ARCHS, temperature=0.0)


def honest_answers(rng, class_ids, classes, sharpness=4.0):
    """Logits [N, T, W] of teachers that know their classes and guess others."""
    logits = rng.normal(size=(len(classes), *class_ids.shape))
    return logits + sharpness * (class_ids[None] == classes[:, None, None])


def side_by_side(logits):
    """Answers of teachers with equal numbers of classes, from [N, T, W]."""
    columns = panel.equal_columns(*logits.shape[1:])
    return Answers(logits.reshape(len(logits), -1), columns)


def shown(classes, owners):
    """Images of which only classes and owners matter."""
    blank = np.zeros((len(classes), 1, 1, 1), np.uint8)
    return SyntheticImages(blank, classes, owners, owners < 0)


def panel_of_sixteen():
    rng = np.random.default_rng(0)
    class_ids = np.stack([rng.permutation(12)[:5] for _ in range(16)])
    owners = np.repeat(np.arange(16), 20)
    classes = np.concatenate([np.repeat(ids, 4) for ids in class_ids])
    logits = honest_answers(rng, class_ids, classes)
    logits[:, 3] = [2.0, 0, 0, 0, 0]  # constant
    logits[5, 6, 1] = np.nan
    logits[:, 9] = np.roll(logits[:, 9], 1, axis=1)  # permuted labels
    logits[:, 12] = rng.normal(size=(len(classes), 5))  # random
    return logits, class_ids, classes, owners


def test_trust_finds_constant_broken_mislabelled_and_random_teachers():
    logits, class_ids, classes, owners = panel_of_sixteen()
    found = panel.trust(side_by_side(logits), class_ids.ravel(), shown(classes, owners))
    bad = [3, 6, 9, 12]
    assert (found.weights[bad] == 0).all(), found.weights
    assert (np.delete(found.weights, bad) == 1).all(), found.weights
    assert found.information[3] == pytest.approx(0, abs=1e-6)
    assert found.agreement[9] < 0.2 < 0.9 < found.agreement[0]


def test_trust_without_classes_goes_by_information():
    rng = np.random.default_rng(1)
    ids, nobody = np.asarray([0, 1, 2]), np.full(30, -1)
    logits = 3 * rng.normal(size=(30, 1, 3))
    images = shown(nobody, nobody)
    assert panel.trust(side_by_side(logits), ids, images).weights.tolist() == [1.0]
    constant = side_by_side(np.zeros_like(logits))
    assert panel.trust(constant, ids, images).weights.tolist() == [0.0]


def entropy(p):
    return -(p * np.log(p + 1e-12)).sum(-1)


def trust_of_equal_ways(logits, class_ids, classes, owners):
    """The formula for arrays [N, T, W] and [T, W], as it was before columns."""
    finite = np.asarray(np.isfinite(logits).all((0, 2)))
    shifted = np.where(np.isfinite(logits), logits, 0.0)
    shifted = shifted - shifted.max(-1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
    information = np.where(finite, entropy(p.mean(0)) - entropy(p).mean(0), 0.0)
    answers = np.take_along_axis(class_ids, shifted.argmax(-1).T, 1)
    agreement = np.full(len(class_ids), np.nan)
    chance = 1.0 / class_ids.shape[1]
    agrees = np.ones(len(class_ids), bool)
    # Only images that their own teacher recognises show their class.
    own = answers[np.maximum(owners, 0), np.arange(len(owners))] == classes
    for t, known in enumerate(class_ids):
        judged = np.isin(classes, known) & (owners != t) & (owners >= 0) & own
        if judged.any() and finite[t]:
            agreement[t] = (answers[t, judged] == classes[judged]).mean()
            error = np.sqrt(chance * (1 - chance) / judged.sum())
            agrees[t] = agreement[t] > chance + 2 * error
    usual = np.median(information[finite]) if finite.any() else 0.0
    tells = information > max(usual / 4, 1e-6)
    weights = (finite & tells & agrees).astype(np.float32)
    return weights, information, agreement


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_ways_are_trusted_as_before_columns(dtype):
    logits, class_ids, classes, owners = panel_of_sixteen()
    logits = logits.astype(dtype)
    found = panel.trust(side_by_side(logits), class_ids.ravel(), shown(classes, owners))
    wanted = trust_of_equal_ways(logits, class_ids, classes, owners)
    np.testing.assert_array_equal(found.weights, wanted[0])
    np.testing.assert_array_equal(found.agreement, wanted[2])
    # One teacher after the other: its images are added up in another order.
    np.testing.assert_allclose(
        found.information, wanted[1], rtol=0, atol=20 * np.finfo(dtype).eps
    )
    # Votes and centrality too.
    believed = np.flatnonzero(found.weights)
    heard = panel.answers_of(side_by_side(logits), believed)
    log_p = logits[:, believed].astype(np.float64)
    log_p = log_p - np.logaddexp.reduce(log_p, axis=-1, keepdims=True)
    total = np.zeros((len(logits), 13))
    for t, ids in enumerate(class_ids[believed]):
        total[:, ids] += log_p[:, t]
    known = np.bincount(class_ids[believed].ravel(), minlength=13)
    mean = np.where(known, total / np.maximum(known, 1), -np.inf)
    voted = panel.vote(heard, class_ids[believed].ravel(), 13)
    np.testing.assert_array_equal(voted, mean.argmax(-1))
    assert voted.dtype == np.int32
    rows = np.ascontiguousarray(logits[:, believed], np.float64)
    rows = rows - rows.mean(0)
    kernels = np.einsum("itw,jtw->tij", rows, rows)
    others = kernels.sum(0) - kernels
    length = np.linalg.norm(kernels, axis=(1, 2)) * np.linalg.norm(others, axis=(1, 2))
    wanted = (kernels * others).sum((1, 2)) / np.maximum(length, 1e-12)
    np.testing.assert_array_equal(panel.centrality(heard), wanted)


def panel_of_many_ways():
    """Sixteen teachers that know 2 to 7 of 12 classes; four of them are bad."""
    rng = np.random.default_rng(4)
    widths = rng.integers(2, 8, size=16)
    class_ids = [rng.permutation(12)[:width] for width in widths]
    owners = np.repeat(np.arange(16), 20)
    classes = np.concatenate([rng.choice(ids, 20) for ids in class_ids])
    logits = [
        rng.normal(size=(320, len(ids))) + 4 * (ids == classes[:, None])
        for ids in class_ids
    ]
    logits[3][:] = np.arange(widths[3])  # constant
    logits[6][5, 1] = np.nan
    logits[9] = np.roll(logits[9], 1, axis=1)  # permuted labels
    logits[12] = rng.normal(size=logits[12].shape)  # random
    # What is recovered from either shows nothing to the others.
    nothing = np.isin(owners, (9, 12))
    for t in set(range(16)) - {3, 6, 9, 12}:
        logits[t][nothing] = rng.normal(size=(nothing.sum(), widths[t]))
    columns = np.cumsum([0, *widths]).astype(np.int32)
    answers = Answers(np.concatenate(logits, 1).astype(np.float32), columns)
    return answers, logits, class_ids, classes, owners


def test_unequal_ways_are_a_loop_over_teachers():
    answers, logits, class_ids, classes, owners = panel_of_many_ways()
    found = panel.trust(answers, np.concatenate(class_ids), shown(classes, owners))
    shares = []
    for t, (said, ids) in enumerate(zip(logits, class_ids, strict=True)):
        if not np.isfinite(said).all():
            assert found.information[t] == 0 and np.isnan(found.agreement[t])
            continue
        p = np.exp(said) / np.exp(said).sum(1, keepdims=True)
        told = entropy(p.mean(0)) - entropy(p).mean()
        np.testing.assert_allclose(found.information[t], told, rtol=1e-4, atol=1e-5)
        shares.append(told / np.log(len(ids)))
        right = [
            ids[row.argmax()] == c
            for i, (row, c, owner) in enumerate(zip(said, classes, owners, strict=True))
            if c in ids
            and owner != t
            # Its own teacher recognises it: it shows its class.
            and class_ids[owner][np.nan_to_num(logits[owner][i]).argmax()] == c
        ]
        np.testing.assert_allclose(found.agreement[t], np.mean(right))
    bad = [3, 6, 9, 12]
    assert (found.weights[bad] == 0).all(), found.weights
    assert (np.delete(found.weights, bad) == 1).all(), found.weights
    # In nats a teacher of two classes tells less than a quarter of what one of a
    # hundred does, however good it is; as a share of what it could, as much.
    assert np.median(shares) > 0.3


def test_failed_inversions_and_single_classes_speak_against_nobody():
    """Teachers 0 to 2 know classes 0 to 3; of each, 40 images."""
    rng = np.random.default_rng(0)
    classes, owners = np.tile(np.arange(4), 30), np.repeat(np.arange(3), 40)
    said = 6.0 * np.eye(4)[classes][:, None].repeat(3, 1)
    said[owners == 1] = 6.0 * np.eye(4)[rng.integers(4, size=(40, 1))]  # failed
    said[owners == 1, 1] = 6.0 * np.eye(4)[(classes[owners == 1] + 1) % 4]
    ids = np.tile(np.arange(4), (3, 1))
    found = panel.trust(side_by_side(said), ids.ravel(), shown(classes, owners))
    assert found.weights.tolist() == [1.0] * 3 and found.agreement[0] == 1.0
    # Whose images the others recognise is not mislabelled, whatever it is shown.
    hidden = said.copy()
    hidden[owners != 1, 1] = 6.0 * np.eye(4)[rng.integers(4, size=80)]
    hidden[owners == 1] = 6.0 * np.eye(4)[classes[owners == 1]][:, None]
    found = panel.trust(side_by_side(hidden), ids.ravel(), shown(classes, owners))
    assert found.agreement[1] < 0.4 and found.weights[1] == 1.0
    # Unless all of its images are of the one class that it likes to say.
    one = np.where(owners == 1, 2, classes)
    hidden[owners == 1] = 6.0 * np.eye(4)[2]
    found = panel.trust(side_by_side(hidden), ids.ravel(), shown(one, owners))
    assert found.agreement[1] < 0.4 and found.weights.tolist() == [1.0, 0.0, 1.0]
    # Teacher 2 answers class 0 by its neighbour; nothing else is shown to it.
    only = np.where(owners == 2, classes, 0)
    said[(owners != 2)] = 6.0 * np.eye(4)[0]
    said[(owners != 2), 2] = 6.0 * np.eye(4)[1]
    found = panel.trust(side_by_side(said), ids.ravel(), shown(only, owners))
    assert found.agreement[2] == 0.0 and found.weights[2] == 1.0


def test_few_classes_are_no_reason_for_distrust():
    rng = np.random.default_rng(0)
    sure = [50.0 * np.eye(width)[rng.integers(width, size=400)] for width in (2, 90)]
    answers = Answers(
        np.concatenate([sure[0], *[sure[1]] * 4], 1),
        np.asarray([0, 2, 92, 182, 272, 362]),
    )
    nobody = np.full(400, -1)
    found = panel.trust(answers, np.arange(362), shown(nobody, nobody))
    assert found.information[0] < found.information[1] / 4
    assert found.weights.tolist() == 5 * [1.0]


def test_votes_and_centrality_of_unequal_ways_are_loops_over_teachers():
    answers, logits, class_ids, classes, _ = panel_of_many_ways()
    good = np.delete(np.arange(16), [3, 6, 9, 12])
    heard = panel.answers_of(answers, good)
    columns = np.concatenate([class_ids[t] for t in good])
    np.testing.assert_array_equal(
        panel.outputs_of(answers.columns, good),
        [i for t in good for i in range(answers.columns[t], answers.columns[t + 1])],
    )
    votes = [[[] for _ in range(12)] for _ in classes]
    for t in good:
        log_p = logits[t] - np.log(np.exp(logits[t]).sum(1, keepdims=True))
        for row, said in zip(votes, log_p, strict=True):
            for class_id, value in zip(class_ids[t], said, strict=True):
                row[class_id].append(value)
    mean = [[np.mean(v) if v else -np.inf for v in row] for row in votes]
    found = panel.vote(heard, columns, 12)
    np.testing.assert_array_equal(found, np.argmax(mean, 1))
    assert (found == classes).mean() > 0.5

    views = {t: logits[t] - logits[t].mean(0) for t in good}
    everything = sum(x @ x.T for x in views.values())
    for t, value in zip(good, panel.centrality(heard), strict=True):
        mine = views[t] @ views[t].T
        rest = everything - mine
        wanted = (mine * rest).sum() / np.sqrt(
            np.square(mine).sum() * np.square(rest).sum()
        )
        np.testing.assert_allclose(value, wanted, rtol=1e-5)


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
