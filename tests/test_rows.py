"""Arrays whose rows are read when they are asked for, and what is made ahead."""

import io
import threading
import zipfile

import jax
import numpy as np
import pytest

from free_jax import rows
from free_jax.ahead import Feed
from free_jax.errors import InputError
from free_jax.zoo import leaf_files


@pytest.fixture
def stored(tmp_path):
    """Two arrays in an archive, and what they hold."""
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.integers(0, 256, (7, 4, 4, 3), np.uint8),
        "logits": rng.normal(size=(7, 5)).astype(np.float32),
        "seconds": np.asarray(1.5),
    }
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    return tmp_path / "a.npz", arrays


INDICES = [
    slice(None), slice(2, 5), slice(None, None, 2), slice(9, 9), 3, -1, np.int64(2),
    np.asarray([4, 0, 0, 6, 5]), np.arange(7) % 2 == 0, np.zeros(0, int),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_rows_are_those_of_the_array(stored, index):
    file, arrays = stored
    found = rows.in_archive(file, ("images", "logits"))
    for name in ("images", "logits"):
        whole, wanted = found[name], arrays[name]
        assert isinstance(whole, rows.FileRows) and whole.nbytes == wanted.nbytes
        np.testing.assert_array_equal(whole[index], wanted[index])
        twice = np.concatenate([wanted, wanted])
        joined = rows.joined([whole, wanted])
        order = np.asarray([8, 1, 13, 0, 2, 3, 9])
        some = rows.chosen(joined, order)
        np.testing.assert_array_equal(some[index], twice[order][index])
        np.testing.assert_array_equal(np.asarray(some), twice[order])


def test_other_arrays_are_read_and_those_in_memory_stay(stored):
    file, arrays = stored
    found = rows.in_archive(file, ("images", "seconds", "none"))
    assert not rows.in_files(found["logits"]) and rows.in_files(found["images"])
    assert found["seconds"] == 1.5
    assert isinstance(rows.joined([arrays["logits"]] * 2), np.ndarray)


def test_what_is_not_there_is_told(stored):
    file, _ = stored
    whole = rows.in_archive(file, ["images"])["images"]
    for index in (7, np.asarray([0, -8]), np.ones(6, bool)):
        with pytest.raises(IndexError):
            whole[index]
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(InputError, match="another file"):
        whole[6]
    with pytest.raises(zipfile.BadZipFile):
        rows.in_archive(file, ["images"])


def test_the_next_is_made_ahead_in_another_thread():
    made = []

    def make(number):
        made.append((number, threading.current_thread() is threading.main_thread()))
        if number == 3:
            raise KeyError("three")
        return 10 * number

    feed = Feed(make)
    assert [feed(1), feed(2)] == [10, 20]
    with pytest.raises(KeyError, match="three"):
        feed(3)
    feed.close()
    assert made[:3] == [(1, False), (2, False), (3, False)]


def test_another_file_at_its_place_is_refused(tmp_path):
    file = tmp_path / "x.npz"
    np.savez(file, x=np.zeros((4, 8)))
    found = rows.in_archive(file, ["x"])["x"]
    assert found[1].shape == (8,)
    np.savez(file, x=np.ones((4, 9)))
    with pytest.raises(InputError, match="another file than it was"):
        found[1]


@pytest.mark.parametrize("index", [(0, 1), 0.5, [0.0]])
def test_an_index_that_is_no_row_is_refused(tmp_path, index):
    file = tmp_path / "x.npz"
    np.savez(file, x=np.zeros((4, 8)))
    found = rows.in_archive(file, ["x"])["x"]
    for array in (found, rows.Rows([found])):
        with pytest.raises(IndexError, match="give"):
            array[index]


def test_the_mean_of_rows_in_a_file_is_that_of_all(tmp_path):
    array = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    leaf_files.write(tmp_path / "a", {"x": array})
    (found,) = leaf_files.read(
        tmp_path / "a", {"x": jax.ShapeDtypeStruct(array.shape, array.dtype)}
    ).values()
    mean = rows.mean(found, at_once=2)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, array.mean(0), rtol=1e-5)
    np.testing.assert_array_equal(rows.mean(array), array.mean(0))


def test_what_was_begun_can_be_forgotten():
    made = []
    feed = Feed(lambda number: made.append(number) or len(made))
    assert feed(3) == 1
    feed.forget()
    assert feed(4) in (2, 3) and made.count(4) == 2
    feed.close()
