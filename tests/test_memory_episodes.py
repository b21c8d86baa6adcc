"""The ring buffer and episode sampling against models made of Python lists."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from free_jax.fewshot import banks
from free_jax.fewshot.episodes import balanced_labels, sample_episode
from free_jax.types import ImageBank, Recovered

CLASSES, CAPACITY, WAY, PER_CLASS = 5, 5, 3, 2
SHAPE = (2, 2, 1)


class ListMemory:
    """A list of places a class; a full class overwrites its oldest place."""

    def __init__(self):
        self.places = [[] for _ in range(CLASSES)]
        self.next = [0] * CLASSES

    def add(self, images, labels, class_ids):
        for relative, absolute in enumerate(class_ids):
            for image in images[labels == relative]:
                pixels = np.floor(255 * np.clip(image, 0, 1)).astype(np.uint8)
                places, at = self.places[absolute], self.next[absolute]
                if at < len(places):
                    places[at] = pixels
                else:
                    places.append(pixels)
                self.next[absolute] = (at + 1) % CAPACITY


def task(seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(WAY), PER_CLASS))
    images = rng.uniform(-0.2, 1.2, size=(WAY * PER_CLASS, *SHAPE)).astype(np.float32)
    return images, labels, rng.permutation(CLASSES)[:WAY]


def recovered(images, labels, ids):
    return Recovered(
        jnp.asarray(images),
        jnp.asarray(labels, jnp.int32),
        jnp.asarray(ids, jnp.int32),
    )


def check(bank, model):
    assert np.asarray(bank.counts).tolist() == [len(p) for p in model.places]
    assert np.asarray(bank.cursor).tolist() == model.next
    for stored, places in zip(np.asarray(bank.images), model.places, strict=True):
        for found, wanted in zip(stored, places, strict=False):
            np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(stored[len(places) :], 0)


add = jax.jit(banks.add)
add_many = jax.jit(banks.add_many)


@hypothesis.given(st.lists(st.integers(0, 10**6), max_size=8))
def test_ring_buffer_is_a_list_that_forgets(seeds):
    bank, model = banks.init(CLASSES, CAPACITY, SHAPE), ListMemory()
    for seed in seeds:
        bank = add(bank, recovered(*task(seed)))
        model.add(*task(seed))
    check(bank, model)


@hypothesis.given(st.integers(0, 10**6))
def test_many_teachers_are_added_in_order(seed):
    # Four tasks of three classes out of five always share classes.
    tasks = [task(seed + i) for i in range(4)]
    model = ListMemory()
    for one in tasks:
        model.add(*one)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *[recovered(*t) for t in tasks])
    check(add_many(banks.init(CLASSES, CAPACITY, SHAPE), stacked), model)


def test_eight_bits_round_down():
    values = np.array([0.0, 0.999 / 255, 1 / 255, 0.5, 254.99 / 255, 1.0, 1.7, -3.0])
    images = jnp.asarray(values, jnp.float32).reshape(8, 1, 1, 1)
    one = Recovered(images, jnp.arange(8, dtype=jnp.int32), jnp.arange(8))
    stored = add(banks.init(8, 1, (1, 1, 1)), one).images.ravel()
    assert stored.tolist() == [0, 0, 1, 127, 254, 255, 255, 0]


@pytest.mark.parametrize(
    ("count", "match"), [(7, "do not divide"), (18, "6 images a class do not fit")]
)
def test_batches_that_do_not_fit_are_refused(count, match):
    one = recovered(np.zeros((count, *SHAPE), "f4"), np.arange(count) % 3, np.arange(3))
    with pytest.raises(ValueError, match=match):
        banks.add(banks.init(CLASSES, CAPACITY, SHAPE), one)


def test_balanced_labels():
    labels = balanced_labels(4, 3)
    assert labels.dtype == jnp.int32
    assert np.bincount(labels).tolist() == [3, 3, 3, 3]


# ---- episodes --------------------------------------------------------------------

ROWS, SHOTS, QUERIES = 6, 1, 2
sample = functools.partial(sample_episode, way=WAY, shots=SHOTS, queries=QUERIES)
many = jax.jit(
    jax.vmap(lambda key, bank: sample(key, bank), in_axes=(0, None)),
)


def coded_bank(counts):
    """Every float image says where it is: (class, row)."""
    counts = jnp.asarray(counts, jnp.int32)
    classes = counts.shape[0]
    grid = np.stack(np.meshgrid(np.arange(classes), np.arange(ROWS), indexing="ij"), -1)
    return ImageBank(jnp.asarray(grid, jnp.float32), counts, jnp.zeros_like(counts))


counts_strategy = st.lists(st.integers(0, ROWS), min_size=7, max_size=7).filter(
    lambda counts: sum(c >= SHOTS + QUERIES for c in counts) >= WAY
)


@hypothesis.given(counts_strategy, st.integers(0, 2**31 - 1))
def test_episodes_are_well_formed(counts, seed):
    keys = jax.random.split(jax.random.key(seed), 8)
    stack = jax.tree.map(np.asarray, many(keys, coded_bank(counts)))
    for i in range(8):
        episode = jax.tree.map(lambda x, i=i: x[i], stack)
        ids = episode.class_ids.tolist()
        assert len(set(ids)) == WAY
        assert all(counts[c] >= SHOTS + QUERIES for c in ids)
        assert episode.support_labels.tolist() == np.repeat(range(WAY), SHOTS).tolist()
        assert episode.query_labels.tolist() == np.repeat(range(WAY), QUERIES).tolist()
        images = np.concatenate([episode.support_images, episode.query_images])
        labels = np.concatenate([episode.support_labels, episode.query_labels])
        places = [tuple(p) for p in images.astype(int).tolist()]
        assert len(set(places)) == len(places)  # Support and query are disjoint too.
        for (cls, row), label in zip(places, labels, strict=True):
            assert cls == ids[label]
            assert 0 <= row < counts[cls]


def test_classes_and_rows_are_drawn_uniformly(key):
    counts = [6, 2, 4, 3, 5]  # Class 1 is one image short.
    draws = 4000
    stack = many(jax.random.split(key, draws), coded_bank(counts))
    picked = np.bincount(np.asarray(stack.class_ids).ravel(), minlength=5)
    expected = draws * WAY / 4
    assert picked[1] == 0
    assert np.abs(picked[[0, 2, 3, 4]] - expected).max() < 5 * np.sqrt(expected)
    # Positions are uniform too: no class prefers a label.
    for position in range(WAY):
        hits = np.bincount(np.asarray(stack.class_ids)[:, position], minlength=5)
        assert np.abs(hits[[0, 2, 3, 4]] - draws / 4).max() < 5 * np.sqrt(draws / 4)
    support = np.asarray(stack.support_images).reshape(-1, 2).astype(int)
    rows = np.bincount(support[support[:, 0] == 2, 1], minlength=ROWS)
    assert rows[4:].sum() == 0
    assert np.abs(rows[:4] - rows.sum() / 4).max() < 5 * np.sqrt(rows.sum() / 4)


def test_bytes_become_floats_and_floats_stay(key):
    images = np.arange(3 * 3, dtype=np.uint8).reshape(3, 3, 1, 1, 1) * 31
    bank = banks.from_arrays(images, np.full(3, 3))
    assert bank.images.dtype == jnp.uint8
    episode = jax.jit(sample)(key, bank)
    values = np.concatenate([episode.support_images, episode.query_images]).ravel()
    assert episode.support_images.dtype == jnp.float32
    np.testing.assert_allclose(np.sort(values), images.ravel() / 255, rtol=1e-6)
    coded = jax.jit(sample)(key, coded_bank([3, 3, 3]))
    assert coded.query_images.max() == 2.0
