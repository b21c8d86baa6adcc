"""Models are judged by teachers that they were not distilled from."""

import json

import jax
import numpy as np
import pytest
import toy

from experiments.evaluation import selection
from experiments.harness.run import Run
from experiments.stages import recover
from free_jax import panel
from free_jax.errors import InputError
from free_jax.fewshot.evaluation import Accuracy
from free_jax.panel import held_out_tasks
from free_jax.parallel import map_tasks
from free_jax.types import SyntheticImages
from free_jax.zoo import Zoo, ZooGroup

FIVE = toy.Network("linear", 5, toy.SHAPE, (0.5,) * 3, (0.5,) * 3, family=toy.LinearNet)


def zoo():
    groups = []
    for network, count, first in ((toy.LINEAR, 3, 0), (FIVE, 3, 3)):
        held = network.num_classes
        teachers = toy.random_teachers(network, count, classes=held)
        teachers = teachers._replace(class_ids=teachers.class_ids + first)
        groups.append(ZooGroup(network, teachers, np.full(count, np.nan)))
    return Zoo(tuple(groups), tuple(map(str, range(8))))


def test_a_teacher_sorts_images_by_what_it_is_surest_of():
    logits = np.asarray(
        [[3.0, 0, 0], [1, 0, 0], [0, 2, 0], [np.nan, 0, 9], [9, 0, 0], [0, 4, 0]],
        np.float32,
    )
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] + np.zeros(
        (1, 2, 2, 1), np.uint8
    )
    bank = held_out_tasks.bank_of_answers(images, logits, 2, num_classes=4)
    assert bank.counts.tolist() == [2, 2, 0, 0]
    assert np.asarray(bank.images)[:2, :, 0, 0, 0].tolist() == [[4, 0], [5, 2]]


def test_judges_know_enough_classes_and_are_not_asked_otherwise():
    def choose(way=5, **options):
        rng = np.random.default_rng(0)
        return panel.choose(rng, zoo(), panel.PanelOptions(**options), way=way)

    choice = choose(held_out_teachers=2)
    assert len(choice.judges) == 2 and (choice.judges >= 3).all()
    assert sorted([*choice.asked, *choice.judges]) == list(range(6))
    assert choice.everyone.tolist() == list(range(6))
    assert choose().judges.size == 0 and choose().everyone.tolist() == list(range(6))
    with pytest.raises(InputError, match="3 of 6 teachers know the 5 classes"):
        choose(held_out_teachers=4)
    with pytest.raises(InputError, match="one at least must be left"):
        choose(held_out_teachers=6, way=3)


CHOICE = panel.PanelChoice(
    np.asarray([0, 1, 3, 4]), np.zeros(0, np.int32), np.asarray([2, 5])
)


def asked_about(found):
    """Images of all six teachers and of nobody, and what all say."""
    images = toy_images(np.random.default_rng(0), 40)
    owners = (np.arange(40) % 7 - 1).astype(np.int32)
    made = SyntheticImages(images, np.full(40, -1, np.int32), owners, owners >= 0)
    return made, panel.ask_zoo(found, images, chunk=40, at_once=40)


def test_nothing_of_a_judge_reaches_the_described_set():
    """Its answers label other teachers' images; its own are left out."""
    found = zoo()
    made, answers = asked_about(found)
    images, owners = made.images, made.owners
    options = panel.PanelOptions(
        panel.RecoverOptions(images_per_class=0, dead_leaves=0), trust=False
    )
    described = panel.describe_zoo(
        jax.random.key(0), found, options, known=(made, answers), choice=CHOICE
    )
    assert described.num_answers == 40 * 6  # Judges' answers are paid for too.
    kept = ~np.isin(owners, [2, 5])
    np.testing.assert_array_equal(described.described.images, images[kept])
    columns = np.r_[0:6, 9:19]  # Of teachers 0, 1, 3 and 4.
    np.testing.assert_allclose(
        described.described.logits, answers.logits[kept][:, columns], rtol=1e-6
    )
    assert described.described.columns.tolist() == [0, 3, 6, 11, 16]
    two, five = described.tasks
    assert two.images.shape == five.images.shape and five.counts.sum() == kept.sum()
    said = answers.logits[kept][:, 19:24].argmax(1)
    assert five.counts.tolist() == np.bincount(said, minlength=5).tolist()
    assert two.counts.tolist()[3:] == [0, 0]


def test_what_is_kept_of_trust_is_about_those_it_is_in(tmp_path):
    found = zoo()
    wanted = panel.RecoverOptions(images_per_class=0, dead_leaves=0)
    recover.described(
        found,
        CHOICE,
        Run(str(tmp_path), 0, lambda tree: tree, map_tasks, None),
        panel.PanelOptions(wanted),
        recover.Beginning(wanted, asked_about(found), reuse_of="another run"),
    )
    told = json.loads((tmp_path / "teachers.json").read_text())
    assert told["teachers"] == [0, 1, 3, 4] and len(told["weights"]) == 4


def toy_images(rng, count):
    return rng.integers(0, 256, (count, *toy.SHAPE)).astype(np.uint8)


def test_the_judgement_is_over_the_episodes_of_all_judges():
    rows = [np.asarray([40.0, 60.0]), np.asarray([20.0, 40.0, 50.0])]
    each = [Accuracy(float(r.mean()), 1.0, r) for r in rows]
    both = selection._together(each)
    assert both.mean == 42.0 and len(both.per_episode) == 5
    assert selection._together(each[:1]) is each[0]
