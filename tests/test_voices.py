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
from free_jax.jobs import in_memory
from free_jax.panel import partial_answers, partial_asking
from free_jax.panel.distillation import panel_distillation
from free_jax.panel.transfer_set import to_described
from free_jax.panel.trust import trust
from free_jax.panel.voices import drawn_voices
from free_jax.panel.votes import vote
from free_jax.types import Answers, SyntheticImages

T = 4


def mask(voices, teachers=T):
    """[n, T] whether a teacher is among those of an image."""
    return (voices[..., None] == np.arange(teachers)).any(1)


def silenced(logits, columns, voices):
    """Answers [n, C] of those that were asked, NaN of the others."""
    return np.where(np.repeat(voices, np.diff(columns), axis=1), logits, np.nan)


def as_some(described, voices):
    """A described set of all answers, as if some teachers had been asked."""
    answers = Answers(np.asarray(described.logits), np.asarray(described.columns))
    told = partial_answers.some_of(answers, voices)
    return described._replace(logits=np.nan_to_num(told.logits), teachers=told.teachers)


@given(st.integers(0, 60), st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000))
def test_each_hears_equally_many_and_its_own(count, teachers, asked, seed):
    rng = np.random.default_rng(seed)
    owners = rng.integers(-1, teachers + 1, count)
    voices = mask(drawn_voices(rng, owners, teachers, asked), teachers)
    assert (voices.sum(1) == min(asked, teachers)).all()
    owned = np.flatnonzero((owners >= 0) & (owners < teachers))
    assert voices[owned, owners[owned]].all()
    nobodys = mask(drawn_voices(rng, np.full(count, -1), teachers, asked), teachers)
    # A last block that is not full may miss one of each voice.
    assert np.ptp(nobodys.sum(0)) <= min(asked, count)
    if count % teachers == 0:
        assert np.ptp(nobodys.sum(0)) == 0


def test_nobody_is_no_panel():
    with pytest.raises(ValueError, match="asked_per_image=0"):
        drawn_voices(np.random.default_rng(0), np.zeros(3, int), 2, 0)


RECOVERED = {}


def recovered_once(stage, jobs):
    """Does jobs; images are recovered once, whoever is asked about them afterwards."""
    if stage != "recovered":
        return in_memory(stage, jobs)
    jobs = list(jobs)
    names = tuple(job.name for job in jobs)
    if names not in RECOVERED:
        RECOVERED[names] = list(in_memory(stage, jobs))
    return iter(RECOVERED[names])


@functools.cache
def all_answers():
    return panel.ask_zoo(tiny_zoo(), described().recovered.images)


@pytest.mark.parametrize("at_once", [1, 40, 20000])
def test_some_answers_are_those_of_all_where_they_were_asked_for(at_once):
    images = described().recovered
    voices = drawn_voices(np.random.default_rng(0), images.owners, T, 2)
    voices[voices == 1] = -1  # Asked about nothing at all.
    jobs = partial_asking.ask_some_jobs(
        tiny_zoo(), images.images, voices, at_once=at_once
    )
    assert len({job.name for job in jobs}) == len(jobs) >= (T if at_once == 1 else 1)
    found = partial_asking.answers_in([job.run() for job in jobs])
    np.testing.assert_array_equal(mask(found.teachers), mask(voices))
    whole = all_answers()
    expected = silenced(whole.logits, whole.columns, mask(voices))
    everything = partial_answers.of_all(found).logits
    np.testing.assert_allclose(everything, expected, rtol=1e-4, atol=1e-5)


def test_asking_costs_what_is_asked():
    """Images stand in the order of their teachers, each of which hears its own."""
    owners = np.repeat(np.arange(50), 20)
    voices = drawn_voices(np.random.default_rng(0), owners, 50, 5)
    heard = [np.flatnonzero((voices == t).any(1)) for t in range(50)]
    size = int(np.clip(np.mean(list(map(len, heard))) / 4, 8, 250))
    found = partial_asking.blocks(heard, size)
    asked = (found.rows >= 0).sum()
    assert asked == voices.size and found.rows.size < 1.5 * voices.size
    for t in range(50):
        rows = found.rows[found.teachers == t].ravel()
        np.testing.assert_array_equal(rows[rows >= 0], heard[t])


def test_a_batch_that_nobody_trusted_was_asked_about_teaches_nothing():
    whole = described().described
    columns = np.asarray(whole.columns)
    less = as_some(whole, np.zeros((31, 1), int))
    less = less._replace(weights=jnp.asarray([0.0, 1.0, 1.0, 1.0]))
    student = dataclasses.replace(toy.TINY, num_classes=int(columns[-1]))
    algorithm = panel_distillation(
        student, columns=columns, optimizer=optax.sgd(0.1), batch_size=9, some=True
    )
    state = jax.jit(algorithm.init)(jax.random.key(1))
    new, info = jax.jit(algorithm.step)(jax.random.key(2), state, less)
    assert info.distill_loss == 0 and info.is_finite
    toy.assert_equal(new.variables["params"], state.variables["params"])


def test_judges_hear_everything_and_make_no_voice_less():
    options = OPTIONS._replace(asked_per_image=2, held_out_teachers=1)
    found = panel.describe_zoo(KEY, tiny_zoo(), options, recovered_once)
    who = found.described.teachers
    assert who.shape[1] == 2 and (who >= 0).all() and who.max() == 2
    (task,) = found.tasks
    assert int(np.asarray(task.counts).sum()) == len(who)


def answers_in(found):
    """What a described zoo's teachers said."""
    told = found.described
    columns = panel.columns_of(tiny_zoo().columns, found.choice.asked)
    own = np.arange(told.logits.shape[-1]) < np.diff(columns)[told.teachers][..., None]
    return Answers(np.where(own, told.logits, np.nan), columns, told.teachers)


def test_a_pool_of_some_answers_is_not_asked_for_others():
    options = OPTIONS._replace(asked_per_image=2)
    found = panel.describe_zoo(KEY, tiny_zoo(), options, recovered_once)
    answers = answers_in(found)
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
    silent = answers._replace(
        teachers=np.where(answers.teachers == 0, -1, answers.teachers)
    )
    told = to_described(found.recovered, silent)
    assert told.weights.tolist() == [0, 1, 1, 1]


def test_a_described_set_of_some_answers_is_distilled():
    options = OPTIONS._replace(asked_per_image=2, trust=True)
    found = panel.describe_zoo(KEY, tiny_zoo(), options, recovered_once)
    assert found.made == len(found.described.images) == 31
    assert found.described.teachers.shape == (31, 2) and found.trust is not None
    # Known answers of all are used as if some only had been asked.
    known = (found.recovered, all_answers())
    no_new = options._replace(
        recover=options.recover._replace(images_per_class=0, dead_leaves=0)
    )
    again = panel.describe_zoo(KEY, tiny_zoo(), no_new, known=known)
    assert again.described.teachers.shape == (31, 2)
    for heads in ("teacher", "class"):
        how = SHORT._replace(heads=heads)
        made = panel.distil(KEY, found.described, toy.TINY, how, num_steps=2)
        assert made.info.is_finite.all()
        for leaf in jax.tree.leaves(made.variables):
            assert np.isfinite(leaf).all()


@pytest.mark.parametrize("of_some", [False, True])
def test_batches_sent_from_the_host_are_those_of_the_device(of_some):
    told = described().described
    if of_some:
        told = as_some(
            told, drawn_voices(np.random.default_rng(1), np.full(31, -1), T, 2)
        )
    made = [
        panel.distil(KEY, told, toy.TINY, SHORT._replace(device_mb=mb), num_steps=3)
        for mb in (1024, 0)
    ]
    toy.assert_close(made[0].variables, made[1].variables, rtol=1e-5, atol=1e-6)


def test_answers_of_some_are_put_together_and_taken_apart():
    whole = all_answers()
    voices = drawn_voices(np.random.default_rng(1), np.full(31, -1), T, 2)
    told = partial_answers.some_of(whole, voices)
    dense = silenced(whole.logits, whole.columns, mask(voices))
    np.testing.assert_array_equal(partial_answers.of_all(told).logits, dense)
    toy.assert_equal(panel.from_silence(Answers(dense, whole.columns)), told)
    pairs = zip(partial_answers.each(told), partial_answers.each(whole), strict=True)
    for t, ((rows, said), (_, wanted)) in enumerate(pairs):
        np.testing.assert_array_equal(rows, np.flatnonzero(mask(voices)[:, t]))
        np.testing.assert_array_equal(said, wanted[rows])
    kept = np.asarray([0, 2, 3])
    fewer = partial_answers.of_all(partial_answers.answers_of(told, kept)).logits
    outputs = panel.outputs_of(whole.columns, kept)
    np.testing.assert_array_equal(fewer, dense[:, outputs])
    both = partial_answers.joined([told, whole])
    expected = np.concatenate([dense, whole.logits])
    np.testing.assert_array_equal(partial_answers.of_all(both).logits, expected)


def test_the_loss_is_the_mean_over_what_was_asked():
    """By a loop over images and teachers, and with all asked that of everyone."""
    whole = described().described
    columns = np.asarray(whole.columns)
    voices = drawn_voices(np.random.default_rng(1), np.full(31, -1), T, 2)
    weights = jnp.asarray([1.0, 0.5, 0.0, 1.0])
    whole = whole._replace(weights=weights)
    less = as_some(whole, voices)
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
    state = jax.jit(algorithm.init)(jax.random.key(1))
    new, info = jax.jit(algorithm.step)(jax.random.key(2), state, less)
    rows = jax.random.split(jax.random.key(2), 3)[0]
    rows = np.asarray(jax.random.randint(rows, (9,), 0, 31))
    said = student.apply(
        {"params": state.variables["params"]},
        jnp.asarray(less.images[rows], jnp.float32) / 255,
        norm="batch",
    )
    total, sum_of_weights = 0.0, 0.0
    for row, mine in zip(rows, np.asarray(said), strict=True):
        for t in voices[row]:
            outputs = slice(columns[t], columns[t + 1])
            p, q = (
                np.asarray(jax.nn.softmax(x[outputs] / 2.0))
                for x in (whole.logits[row], mine)
            )
            weight = float(weights[t])
            total += weight * (p * np.log(p / q)).sum()
            sum_of_weights += weight
    np.testing.assert_allclose(info.distill_loss, total / sum_of_weights, rtol=1e-4)
    for leaf in jax.tree.leaves(new.variables):
        assert np.isfinite(leaf).all()
    everyone = np.broadcast_to(np.arange(T), (31, T))
    both = [
        jax.jit(build(some=True).step)(jax.random.key(2), state, data)
        for data in (whole, as_some(whole, everyone))
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
    told = partial_answers.some_of(everyone, voices)
    judged = trust(told, known.ravel(), images)
    assert judged.weights.tolist() == wanted
    # All asked about all is no other judgement.
    same = partial_answers.some_of(everyone, partial_answers.everyone(everyone))
    np.testing.assert_array_equal(
        trust(same, known.ravel(), images).information,
        trust(everyone, known.ravel(), images).information,
    )
    # Whoever was not asked neither votes nor is left out; a broken answer is told.
    believed = np.flatnonzero(wanted)
    trusted = panel.answers_of(told, believed)
    ids = known[believed].ravel()
    asked = mask(voices, 6)
    heard_any = np.isin(classes, known[0]) | asked[:, 1] | asked[:, 2]
    voted = vote(trusted, ids, 3)
    assert (voted == classes)[heard_any].mean() > 0.9
    nobody = Answers(np.full((1, 2), np.nan), np.asarray([0, 2]))
    assert vote(nobody, np.asarray([0, 1]), 2).tolist() == [-1]
    broken = told.logits.copy()
    broken[np.flatnonzero(voices[:, 1] == 2)[0], 1] = np.inf
    weights = to_described(images, told._replace(logits=broken)).weights
    assert np.asarray(weights).tolist() == [1, 1, 0, 1, 1, 1]
