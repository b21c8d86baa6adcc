"""Further folders of images that a finished model is measured on."""

import itertools

import numpy as np
import pytest
from PIL import Image

from experiments.data import Preset
from experiments.inputs import further
from free_jax.errors import InputError

CHOSEN = Preset("", 8, (0.5,) * 3, (0.25,) * 3)


def folder_of(root, counts, side=5, mode="RGB"):
    for number, count in enumerate(counts):
        (root / f"class{number}").mkdir(parents=True)
        for i in range(count):
            shade = 10 * number + i
            picture = Image.new("L", (side, side + 2), shade).convert(mode)
            picture.save(root / f"class{number}" / f"{i}.png")
    return root


def listed(path, way=2, shots=1, queries=4):
    (found,) = further.listed(
        f"mine:{path}", "test", way=way, shots=shots, queries=queries
    )
    return found


@pytest.mark.parametrize(
    "counts, queries, classes",
    [
        ((9, 9, 9), 4, 3),  # Enough of all.
        ((9, 9, 2, 1), 4, 2),  # Half of the classes have enough.
        ((9, 4, 3, 1, 1), 2, 3),  # Half of them: fewer queries.
        ((3, 2, 1, 1, 1, 1), 1, 2),  # Half has none: enough for an episode.
    ],
)
def test_small_classes_have_fewer_queries_or_are_left_out(
    tmp_path, counts, queries, classes
):
    found = listed(folder_of(tmp_path, counts))
    assert (found.queries, len(found.files)) == (queries, classes)
    assert all(len(files) > found.queries for files in found.files.values())
    assert bool(found.told) == (queries < 4 or classes < len(counts))


def test_images_of_any_size_and_colour_become_the_models(tmp_path, capsys):
    found = listed(folder_of(tmp_path, (5, 6, 1), mode="L"))
    bank = further.load(found, CHOSEN)
    assert bank.images.shape == (2, 6, 8, 8, 3) and bank.counts.tolist() == [5, 6]
    np.testing.assert_array_equal(bank.images[1, :, 4, 4, 1], 10 + np.arange(6))
    assert "mine: 1 of 3 classes are left out" in capsys.readouterr().out
    grey = further.load(found, CHOSEN._replace(mean=(0.5,), std=(0.25,)))
    assert grey.images.shape == (2, 6, 8, 8, 1)


def test_many_images_of_a_class_are_drawn_and_not_the_first(tmp_path, monkeypatch):
    monkeypatch.setattr(further, "MOST", 5)
    found = listed(folder_of(tmp_path, (40, 5)))
    bank = further.load(found, CHOSEN)
    assert bank.counts.tolist() == [5, 5]
    drawn = np.asarray(bank.images[0, :, 0, 0, 0])
    assert len(set(drawn.tolist())) == 5 and drawn.max() > 10
    again = further.load(found, CHOSEN)
    np.testing.assert_array_equal(bank.images, again.images)


def test_there_is_room_for_what_is_read(tmp_path, monkeypatch):
    found = listed(folder_of(tmp_path, (9, 7)))
    # An episode of one shot and four queries takes five in any case.
    for room, held in ((6, 6), (4, 5)):
        monkeypatch.setattr(further, "ROOM", 2 * room * 8 * 8 * 3)
        bank = further.load(found, CHOSEN)
        assert bank.images.shape[:2] == (2, held)
        assert bank.counts.tolist() == [held, held]


def test_a_folder_named_as_the_split_is_taken(tmp_path):
    folder_of(tmp_path / "test", (5, 5))
    folder_of(tmp_path / "val", (5, 5, 5))
    assert len(listed(tmp_path).files) == 2
    named = [
        further.contents(text, split)["further folders"].parts
        for text, split in [
            (f"mine:{tmp_path}", "test"),
            (f"mine:{tmp_path}", "val"),
            (f"other:{tmp_path}", "test"),
            (f"mine:{tmp_path},more:{tmp_path}", "test"),
        ]
    ]
    assert all(one != other for one, other in itertools.combinations(named, 2))
    assert further.contents("", "test") == {} and further.parse("", "test") == {}


def test_what_is_wrong_is_named(tmp_path):
    folder_of(tmp_path / "few", (5, 1, 1))
    for text, match in [
        ("birds", "write NAME:PATH"),
        (":/tmp", "write NAME:PATH"),
        (f"a:{tmp_path},a:{tmp_path}", "'a' names two folders"),
        (f"a:{tmp_path / 'none'}", "is no folder"),
        (f"a:{tmp_path / 'few'}", "has 1 of 3 classes"),
        (f"a:{tmp_path / 'few' / 'class0'}", "a folder a class"),
    ]:
        with pytest.raises(InputError, match=match):
            further.listed(text, "test", way=2, shots=1, queries=3)
