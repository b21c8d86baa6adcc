"""Some teachers asked about each image, not all about all."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st
from test_pipeline import KEY, OPTIONS, SHORT, described, tiny_zoo

from free_jax import panel
from free_jax.errors import InputError
from free_jax.panel import asking
from free_jax.panel.aggregate import vote
from free_jax.panel.distillation import panel_distillation
from free_jax.panel.transfer_set import to_described
from free_jax.panel.trust import trust
from free_jax.panel.voices import drawn_voices, heard, silenced
from free_jax.types import Answers, SyntheticImages

T = 4


@given(st.integers(0, 60), st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_each_hears_equally_many_and_its_own(count, teachers, asked, seed):
    rng = np.random.default_rng(seed)
    owners = rng.integers(-1, teachers + 1, count)
    voices = drawn_voices(rng, owners, teachers, asked)
    assert (voices.sum(1) == min(asked, teachers)).all()
    owned = np.flatnonzero((owners >= 0) & (owners < teachers))
    assert voices[owned, owners[owned]].all()
    nobodys = drawn_voices(rng, np.full(count, -1), teachers, asked)
    # A last block that is not full may miss one of each voice.
    assert np.ptp(nobodys.sum(0)) <= min(asked, count)
    if count % teachers == 0:
        assert np.ptp(nobodys.sum(0)) == 0


def test_nobody_is_no_panel():
    with pytest.raises(ValueError, match="asked_per_image=0"):
        drawn_voices(np.random.default_rng(0), np.zeros(3, int), 2, 0)


@functools.cache
def all_answers():
    return panel.ask_zoo(tiny_zoo(), described().recovered.images)


@pytest.mark.parametrize("chunk", [10, 31, 500])
def test_some_answers_are_those_of_all_where_they_were_asked_for(chunk):
    images = described().recovered
    voices = drawn_voices(np.random.default_rng(0), images.owners, T, 2)
    voices[:, 1] = False  # Asked about nothing at all.
    jobs = asking.ask_some_jobs(tiny_zoo(), images.images, voices, chunk=chunk)
    parts = [job.run() for job in jobs]
    found = np.concatenate([part["logits"] for part in parts])
    whole = all_answers()
    np.testing.assert_array_equal(
        heard(Answers(found, whole.columns)), voices, err_msg="NaN of the others"
    )
    expected = silenced(whole.logits, whole.columns, voices)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_asking_costs_what_is_asked():
    """Images stand in the order of their teachers, each of which hears its own."""
    owners = np.repeat(np.arange(50), 20)
    voices = drawn_voices(np.random.default_rng(0), owners, 50, 5)
    for start in (0, 500):
        part = voices[start : start + 500]
        size = int(np.clip(500 * voices.mean() / 4, 8, 250))
        teachers, rows = asking._blocks(part, size)
        assert (rows >= 0).sum() == part.sum() and rows.size < 1.5 * part.sum()
        asked = np.zeros_like(part)
        for teacher, block in zip(teachers, rows, strict=True):
            asked[block[block >= 0], teacher] = True
        np.testing.assert_array_equal(asked, part)


def test_a_batch_that_nobody_trusted_was_asked_about_teaches_nothing():
    whole = described().described
    columns = np.asarray(whole.columns)
    voices = np.zeros((31, T), bool)
    voices[:, 0] = True
    some = whole._replace(
        logits=jnp.asarray(silenced(np.asarray(whole.logits), columns, voices)),
        weights=jnp.asarray([0.0, 1.0, 1.0, 1.0]),
    )
    student = dataclasses.replace(toy.TINY, num_classes=int(columns[-1]))
    algorithm = panel_distillation(
        student, columns=columns, optimizer=optax.sgd(0.1), batch_size=9, some=True
    )
    state = algorithm.init(jax.random.key(1))
    new, info = jax.jit(algorithm.step)(jax.random.key(2), state, some)
    assert info.distill_loss == 0 and info.is_finite
    toy.assert_equal(new.variables["params"], state.variables["params"])


def test_judges_hear_everything_and_make_no_voice_less():
    options = OPTIONS._replace(asked_per_image=2, held_out_teachers=1)
    found = panel.describe_zoo(KEY, tiny_zoo(), options)
    asked = np.asarray(found.described.logits)
    columns = panel.columns_of(tiny_zoo().columns, found.choice.asked)
    told = heard(Answers(asked, columns))
    assert (told.sum(1) == 2).all() and told.shape[1] == 3
    (task,) = found.tasks
    assert int(np.asarray(task.counts).sum()) == len(told)


def test_a_pool_of_some_answers_is_not_asked_for_others():
    options = OPTIONS._replace(asked_per_image=2)
    found = panel.describe_zoo(KEY, tiny_zoo(), options)
    answers = Answers(np.asarray(found.described.logits), tiny_zoo().columns)
    none = options.recover._replace(images_per_class=0, dead_leaves=0)
    again = functools.partial(
        panel.describe_zoo, KEY, tiny_zoo(), known=(found.recovered, answers)
    )
    for same in (0, 2):
        told = again(options._replace(recover=none, asked_per_image=same))
        toy.assert_equal(told.described.logits, found.described.logits)
    with pytest.raises(InputError, match="about 2 teachers were asked"):
        again(options._replace(recover=none, asked_per_image=1))
    # One that was asked nothing is not believed.
    silent = answers.logits.copy()
    silent[:, : tiny_zoo().columns[1]] = np.nan
    some = answers._replace(logits=silent)
    told = to_described(found.recovered, some, None, heard(some))
    assert told.weights.tolist() == [0, 1, 1, 1]


def test_a_described_set_of_some_answers_is_distilled():
    options = OPTIONS._replace(asked_per_image=2, trust=True)
    found = panel.describe_zoo(KEY, tiny_zoo(), options)
    assert found.made == len(found.described.images) == 31
    asked = heard(Answers(np.asarray(found.described.logits), tiny_zoo().columns))
    assert (asked.sum(1) == 2).all() and found.trust is not None
    # Known answers of all are used as if some only had been asked.
    known = (found.recovered, all_answers())
    no_new = options._replace(
        recover=options.recover._replace(images_per_class=0, dead_leaves=0)
    )
    again = panel.describe_zoo(KEY, tiny_zoo(), no_new, known=known)
    told = heard(Answers(np.asarray(again.described.logits), tiny_zoo().columns))
    assert (told.sum(1) == 2).all()
    made = panel.distil(KEY, found.described, toy.TINY, SHORT, num_steps=2)
    assert made.info.is_finite.all()
    for leaf in jax.tree.leaves(made.variables):
        assert np.isfinite(leaf).all()


def test_the_loss_is_the_mean_over_what_was_asked():
    """By a loop over images and teachers, and with all asked that of everyone."""
    whole = described().described
    columns = np.asarray(whole.columns)
    voices = drawn_voices(np.random.default_rng(1), np.full(31, -1), T, 2)
    some = whole._replace(
        logits=jnp.asarray(silenced(np.asarray(whole.logits), columns, voices)),
        weights=jnp.asarray([1.0, 0.5, 0.0, 1.0]),
    )
    student = dataclasses.replace(toy.TINY, num_classes=int(columns[-1]))
    build = functools.partial(
        panel_distillation,
        student,
        columns=columns,
        optimizer=optax.sgd(0.1),
        batch_size=9,
        crop_padding=0,
        flip=False,
        temperature=2.0,
    )
    algorithm = build(some=True)
    state = algorithm.init(jax.random.key(1))
    new, info = jax.jit(algorithm.step)(jax.random.key(2), state, some)
    rows = jax.random.split(jax.random.key(2), 3)[0]
    rows = np.asarray(jax.random.randint(rows, (9,), 0, 31))
    said = student.apply(
        {"params": state.variables["params"]},
        jnp.asarray(some.images[rows], jnp.float32) / 255,
        norm="batch",
    )
    total, sum_of_weights = 0.0, 0.0
    for row, mine in zip(rows, np.asarray(said), strict=True):
        for t in np.flatnonzero(voices[row]):
            outputs = slice(columns[t], columns[t + 1])
            p, q = (
                np.asarray(jax.nn.softmax(x[outputs] / 2.0))
                for x in (some.logits[row], mine)
            )
            weight = float(some.weights[t])
            total += weight * (p * np.log(p / q)).sum()
            sum_of_weights += weight
    np.testing.assert_allclose(info.distill_loss, total / sum_of_weights, rtol=1e-4)
    for leaf in jax.tree.leaves(new.variables):
        assert np.isfinite(leaf).all()
    both = [
        jax.jit(build(some=some).step)(jax.random.key(2), state, whole)
        for some in (False, True)
    ]
    toy.assert_close(both[0][0].variables, both[1][0].variables, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="ask all of them"):
        build(some=True, similarity=1.0)


def test_a_liar_is_found_by_what_it_was_asked():
    """Six teachers of two classes each; one says the other class of each image."""
    rng, classes = np.random.default_rng(0), np.tile(np.arange(3), 200)
    known = np.asarray([[0, 1], [1, 2], [2, 0]] * 2)
    owners = np.asarray([np.flatnonzero((known == c).any(1))[0] for c in classes])
    sure = 6.0 * (known[None] == classes[:, None, None]) + rng.normal(size=(600, 6, 2))
    sure[:, 4] = sure[:, 4, ::-1]
    columns = np.arange(0, 14, 2)
    images = SyntheticImages(
        images=np.zeros((600, 1, 1, 3), np.uint8),
        classes=classes,
        owners=owners,
        natural=np.ones(600, bool),
    )
    everyone = Answers(sure.reshape(600, -1), columns)
    wanted = [1, 1, 1, 1, 0, 1]
    assert trust(everyone, known.ravel(), images).weights.tolist() == wanted
    voices = drawn_voices(rng, owners, 6, 3)
    some = Answers(silenced(everyone.logits, columns, voices), columns)
    judged = trust(some, known.ravel(), images, voices)
    assert judged.weights.tolist() == wanted
    # All asked about all is no other judgement.
    same = trust(everyone, known.ravel(), images, np.ones((600, 6), bool))
    np.testing.assert_array_equal(
        same.information, trust(everyone, known.ravel(), images).information
    )
    # Whoever was not asked neither votes nor is left out; a broken answer is told.
    believed = np.flatnonzero(wanted)
    told = panel.answers_of(some, believed)
    ids = known[believed].ravel()
    heard_any = np.isin(classes, known[0]) | voices[:, 1] | voices[:, 2]
    voted = vote(told, ids, 3)
    assert (voted == classes)[heard_any].mean() > 0.9
    nobody = Answers(np.full((1, 2), np.nan), np.asarray([0, 2]))
    assert vote(nobody, np.asarray([0, 1]), 2).tolist() == [-1]
    broken = some.logits.copy()
    broken[np.flatnonzero(voices[:, 2])[0], 4] = np.inf
    weights = to_described(images, Answers(broken, columns), None, voices).weights
    assert np.asarray(weights).tolist() == [1, 1, 0, 1, 1, 1]
