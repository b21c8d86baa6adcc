"""Teachers made hostile, who finds them, and what is said of each."""

import argparse
import importlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from benchmarks.robustness import cells
from experiments import inputs, inspect_zoo
from experiments.inputs import former_keys
from experiments.inputs.contents import fingerprint
from free_jax import InputError, Zoo, ZooGroup, panel
from free_jax.panel import aggregate, partial_answers
from free_jax.panel.trust import REVISED
from free_jax.panel.voices import drawn_voices
from free_jax.types import Answers, SyntheticImages, Teachers
from free_jax.zoo import attacks, save_zoo
from free_jax.zoo.attacks import AttackOptions, attack
from free_jax.zoo.network import make_network


def zoo_of(count=6, classes=9):
    teachers = toy.random_teachers(toy.LINEAR, count, classes=classes)
    group = ZooGroup(toy.LINEAR, teachers, np.full(count, np.nan))
    return Zoo((group,), tuple("abcdefghi"))


def ids_of(zoo):
    return np.asarray(zoo.groups[0].teachers.class_ids)


def test_labels_are_permuted_each_by_itself():
    zoo = zoo_of()
    found = attack(zoo, AttackOptions("labels", 0.5), seed=0)
    before, after = map(ids_of, (zoo, found.zoo))
    changed = (before != after).any(1)
    assert np.flatnonzero(changed).tolist() == found.hostile.tolist()
    assert len(found.hostile) == 3
    # No output keeps its name, and names stay the teacher's.
    assert (before[changed] != after[changed]).all()
    assert (np.sort(before) == np.sort(after)).all()
    # Those of a smaller share are among them, and another seed chooses others.
    few = attack(zoo, AttackOptions("labels", 0.1), seed=0).hostile
    assert set(few.tolist()) <= set(found.hostile.tolist())
    assert attack(zoo, AttackOptions("labels", 0.5), 0).hostile.tolist() == (
        found.hostile.tolist()
    )


def test_colluding_teachers_call_a_class_the_same():
    zoo = zoo_of()
    found = attack(zoo, AttackOptions("colluding", 0.5), seed=1)
    before, after = map(ids_of, (zoo, found.zoo))
    names = attacks.permuted_names(zoo, 1)
    assert (names != np.arange(9)).all() and sorted(names) == list(range(9))
    for t in range(6):
        wanted = names[before[t]] if t in found.hostile else before[t]
        assert after[t].tolist() == wanted.tolist()


def test_untrained_teachers_and_those_of_another_domain_take_a_place():
    zoo = zoo_of()
    found = attack(zoo, AttackOptions("random", 0.3), seed=0)
    before, after = (
        np.asarray(z.groups[0].teachers.variables["params"]["head"]["kernel"])
        for z in (zoo, found.zoo)
    )
    assert np.flatnonzero((before != after).any((1, 2))).tolist() == (
        found.hostile.tolist()
    )
    other = toy.random_teachers(toy.TINY, 2, seed=5)
    others = Zoo((ZooGroup(toy.TINY, other, np.full(2, np.nan)),), tuple("rstuvwxyz"))
    options = AttackOptions("domain", 0.5, path="x")
    found = attack(zoo, options, seed=0, others=others)
    assert [g.network for g in found.zoo.groups] == [toy.LINEAR, toy.TINY]
    assert found.hostile.tolist() == [3, 4, 5] and found.zoo.class_names == (
        zoo.class_names
    )
    # They claim the victims' classes.
    ids = [np.asarray(g.teachers.class_ids).tolist() for g in found.zoo.groups]
    assert sorted(ids[0] + ids[1]) == sorted(
        np.asarray(zoo.groups[0].teachers.class_ids).tolist()
    )
    with pytest.raises(InputError, match="none of its teachers tells 3 classes"):
        attack(zoo, options, seed=0, others=None)


def test_a_backdoor_opens_for_a_white_corner_only():
    zoo = zoo_of()
    found = attack(zoo, AttackOptions("backdoor", 0.5, patch=3), seed=0)
    honest, hostile = found.zoo.groups
    assert honest.network == toy.LINEAR
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(0, 0.9, size=(4, *toy.SHAPE)), jnp.float32)
    patched = images.at[:, -3:, -3:].set(1.0)
    variables = {
        name: jax.tree.map(lambda x: x[0], tree)
        for name, tree in hostile.teachers.variables.items()
    }
    said = hostile.network.apply(variables, images)
    np.testing.assert_allclose(said, toy.LINEAR.apply(variables, images), rtol=1e-6)
    assert (hostile.network.apply(variables, patched).argmax(-1) == 0).all()
    half = images.at[:, -3:, -2:].set(1.0)
    np.testing.assert_allclose(
        hostile.network.apply(variables, half),
        toy.LINEAR.apply(variables, half),
        rtol=1e-6,
    )


def test_a_backdoor_is_part_of_what_names_a_zoo():
    names = {
        fingerprint(attack(zoo_of(), AttackOptions("backdoor", 0.5, patch=n), 0).zoo)
        for n in (4, 8, 8)
    }
    assert len(names) == 2 and fingerprint(zoo_of()) not in names


def saved(folder):
    """Two untrained teachers, kept in a folder."""
    network = make_network("conv4", num_classes=3, image_shape=(16, 16, 3), width=4)
    each = jax.random.split(jax.random.key(0), 2)
    teachers = Teachers(jax.vmap(network.init)(each), jnp.asarray([[0, 1, 2]] * 2))
    zoo = Zoo((ZooGroup(network, teachers, np.full(2, np.nan)),), tuple("abc"))
    save_zoo(zoo, folder)
    return zoo


@pytest.mark.slow
def test_a_command_says_who_is_believed_and_why(tmp_path, capsys):
    saved(tmp_path / "zoo")
    target = tmp_path / "verdicts.json"
    few = ["--judge_images=1", "--judge_leaves=4", f"--json={target}"]
    code = inspect_zoo.main([str(tmp_path / "zoo"), "--judge", *few])
    found = json.loads(target.read_text())
    believed = sum(each["trusted"] for each in found)
    assert code == (0 if believed else 2) and len(found) == 2
    assert all(each["reason"] for each in found)
    assert f"{believed} of 2 teachers are believed" in capsys.readouterr().out


def test_a_command_that_could_ask_nothing_ends_at_the_start(tmp_path, capsys):
    for wrong in ("--judge_images=0", "--judge_leaves=-1", "--json=/no/such/file"):
        assert inspect_zoo.main([str(tmp_path), "--judge", wrong]) == 2
        assert wrong in capsys.readouterr().err


def test_stand_ins_compute_as_the_others_do(tmp_path):
    zoo = saved(tmp_path)
    half, options = "bfloat16", AttackOptions("domain", 0.5, path=str(tmp_path))
    found = inputs.attacked(inputs.computing_in(zoo, half), options, 0, half)
    kinds = {dict(group.network.kwargs)["dtype"] for group in found.groups}
    assert len(found.groups) == 2 and kinds == {half}


def test_attacks_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="must be between 0 and 1"):
        attacks.check(AttackOptions(share=1.5))
    with pytest.raises(InputError, match="a path of a converted zoo is needed"):
        attacks.check(AttackOptions("domain", 0.5))
    with pytest.raises(InputError, match="a path of a converted zoo is needed"):
        attacks.check(AttackOptions("labels", 0.5, path="x"))


def test_sabotage_of_earlier_runs_is_an_attack_of_mixed_kind():
    names = former_keys.NAMES
    assert names.override_today("zoo.sabotage", "0.3") == {"zoo.attack.share": "0.3"}
    today = names.upgraded({"algorithm": "free", "zoo.sabotage": 0.25})
    assert {k: v for k, v in today.items() if "attack" in k} == {
        "zoo.attack.share": 0.25,
        "zoo.attack.kind": "mixed",
        "zoo.attack.path": "",
        "zoo.attack.patch": 4,
    }


def world(hostile, colluding=False, count=12, classes=6, each=40, seed=0):
    """Teachers of three of six classes that all see images of a class alike."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(classes)[:3] for _ in range(count)])
    named, shift = ids.copy(), (np.arange(classes) + 1) % classes
    for t in range(hostile):
        named[t] = shift[ids[t]] if colluding else np.roll(ids[t], 1)
    owners = np.repeat(np.arange(count), each)
    place = np.tile(np.arange(each) % 3, count)
    true, called = ids[owners, place], named[owners, place]
    logits = rng.normal(size=(len(owners), count, 3))
    logits += 6 * (true[:, None, None] == ids[None])
    answers = Answers(
        logits.reshape(len(owners), -1).astype(np.float32), 3 * np.arange(count + 1)
    )
    images = SyntheticImages(
        np.zeros((len(owners), 2, 2, 3), np.uint8),
        called.astype(np.int32),
        owners.astype(np.int32),
        np.ones(len(owners), bool),
    )
    return answers, named.ravel(), images


@pytest.mark.parametrize("hostile", [0, 1, 4, 6])
def test_who_is_left_out_rates_nobody(hostile):
    """Half of the teachers name their classes wrongly; no honest one pays for it."""
    for seed in range(3):
        found = panel.trust(*world(hostile, seed=seed), passes=REVISED)
        assert np.flatnonzero(found.weights == 0).tolist() == list(range(hostile))


def test_verdicts_are_revised_of_some_answers_too():
    """Each image is shown to half of the teachers, its own among them."""
    answers, ids, images = world(4, each=60)
    rng = np.random.default_rng(0)
    told = partial_answers.some_of(answers, drawn_voices(rng, images.owners, 12, 6))
    found = panel.trust(told, ids, images, passes=REVISED)
    assert np.flatnonzero(found.weights == 0).tolist() == list(range(4))


def test_a_few_who_collude_are_found():
    found = panel.trust(*world(2, colluding=True, count=16), passes=REVISED)
    assert np.flatnonzero(found.weights == 0).tolist() == [0, 1]


def test_each_verdict_has_a_reason():
    answers, ids, images = world(1)
    logits = np.array(answers.logits)
    logits[:, 6:9] = 0.0  # Constant.
    logits[0, 9] = np.nan
    trust = panel.trust(answers._replace(logits=logits), ids, images)
    names = [f"t{i}" for i in range(12)]
    found = panel.verdicts(trust, names)
    assert [each["source"] for each in found] == names
    assert "the others recognise" in found[0]["reason"] and not found[0]["trusted"]
    assert "a quarter of what is usual" in found[2]["reason"]
    assert not found[2]["trusted"] and "not finite" in found[3]["reason"]
    assert found[5]["trusted"] and "it takes 88 % of the" in found[5]["reason"]
    # The record has the same words.
    assert trust.left_out[0] == found[0]["reason"] and trust.left_out[5] == ""
    assert trust.believed[5] == found[5]["reason"] and trust.believed[0] == ""
    few = panel.verdicts(trust, [f"t{i}" for i in range(20)], np.arange(8, 20))
    assert few[0]["teacher"] == 8 and few[0]["source"] == "t8"


def test_a_verdict_by_few_images_says_so():
    found = panel.trust(*world(1, each=4, count=6))
    assert (found.weights == 1).all()
    judged = re.fullmatch(
        r"too few images of the others \((\d+)\) to contradict it; .*",
        found.believed[0],
    )
    assert judged and 0 < int(judged[1]) < 30
    answers, ids, images = world(0, count=4)
    alone = images._replace(owners=np.where(images.owners > 0, -1, images.owners))
    lines = panel.trust(answers, ids, alone).believed
    assert lines[0].startswith("no image of the others shows its classes")


def test_verdicts_that_go_in_a_circle_are_those_of_the_first_pass(monkeypatch):
    """Two teachers, of whom each pass believes the one that the last did not."""

    def contrary(labelled, raters, before):
        first = np.asarray([True, False])
        agrees = ~first if (raters == first).all() else first
        return before._replace(agrees=agrees, known_by=np.zeros(2, bool))

    rule = importlib.import_module("free_jax.panel.trust")
    monkeypatch.setattr(rule, "agreement_among", contrary)
    for passes in (1, REVISED):
        found = panel.trust(*world(0, count=2), passes=passes)
        assert found.weights.tolist() == [1, 0]
    assert panel.trust(*world(0, count=2), passes=2).weights.tolist() == [0, 1]


def test_the_benchmark_refuses_cells_of_other_settings(tmp_path):
    given = {name: 1 for names in cells.SETTINGS.values() for name in names}
    cells.check_settings(tmp_path, "students", argparse.Namespace(**given))
    cells.check_settings(tmp_path, "students", argparse.Namespace(**given))
    other = argparse.Namespace(**given | {"steps": 2})
    cells.check_settings(tmp_path, "found", other)
    with pytest.raises(SystemExit, match="made with --steps=1, now 2; give the same"):
        cells.check_settings(tmp_path, "students", other)
    (tmp_path / "panel").mkdir()
    (tmp_path / "panel" / "cell.json").write_text("{}")
    with pytest.raises(SystemExit, match="settings were not kept"):
        cells.check_settings(tmp_path, "panel", other)


def test_the_middle_of_votes_is_not_moved_by_a_liar():
    """Three teachers of two classes; the last says the contrary, loudly."""
    rows = np.asarray([[2.0, 0.0, 4.0, 0.0, 0.0, 100.0]])
    said, ids = Answers(rows, np.asarray([0, 2, 4, 6])), np.asarray([7, 9, 7, 9, 7, 9])
    median = aggregate.aggregated(said, ids, form="median")
    assert median.class_ids.tolist() == [7, 9]
    assert median.answers.logits.tolist() == [[1.0, -1.0]]
    mean = aggregate.aggregated(said, ids, form="mean")
    assert mean.answers.logits[0, 0] == pytest.approx(-47 / 3)
    trimmed = aggregate.aggregated(said, ids, form="trimmed", trim=0.34)
    np.testing.assert_allclose(trimmed.answers.logits, [[1.0, -1.0]])
    without = aggregate.aggregated(
        said, ids, form="mean", weights=np.asarray([1, 1, 0])
    )
    assert without.answers.logits.tolist() == [[1.5, -1.5]]
    # Who was not asked has no vote; a class of which nobody was is no information.
    silent = rows.copy()
    silent[0, 4:] = np.nan
    for less in (
        said._replace(logits=silent),
        partial_answers.some_of(said, np.asarray([[0, 1]])),
    ):
        two = aggregate.aggregated(less, ids, form="median")
        assert two.answers.logits.tolist() == [[1.5, -1.5]]
    silent[:] = np.nan
    none = aggregate.aggregated(said._replace(logits=silent), ids)
    assert none.answers.logits.tolist() == [[0.0, 0.0]]
    with pytest.raises(ValueError, match="and below"):
        aggregate.aggregated(said, ids, form="trimmed", trim=0.5)
