"""Which teachers are worth asking: closed forms, and a run that asks those alone."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from test_panel_experiment import parse, zoo_path  # noqa: F401

from experiments import train
from experiments.harness import chunks
from free_jax import Teachers, Zoo, ZooGroup, load_zoo, panel
from free_jax.errors import InputError
from free_jax.panel import partial_answers
from free_jax.types import Answers

N = 40
COLUMNS = np.asarray([0, 3, 6, 8, 11, 13])  # Three, three, two, three, two classes.


def answers(seed=0, columns=COLUMNS):
    """Teachers that see one another's four directions, each in another way."""
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(N, 4)) @ rng.normal(size=(4, columns[-1]))
    own = 0.3 * rng.normal(size=(N, columns[-1]))
    return Answers((seen + own).astype(np.float32), columns)


def with_others(told, *others):
    """The same answers, and those of further teachers."""
    logits = np.concatenate([told.logits, *others], axis=1)
    ends = told.columns[-1] + np.cumsum([x.shape[1] for x in others])
    return Answers(logits, np.concatenate([told.columns, ends]))


def described(told):
    """Tempered probabilities less their mean, a block a teacher."""
    blocks = np.split(told.logits.astype(float), told.columns[1:-1], axis=1)
    shares = [np.asarray(jax.nn.softmax(x / 2.0, axis=1), float) for x in blocks]
    return [x - x.mean(0) for x in shares]


def ridge_loss(known, wanted, ridge):
    """``min_B |Y - X B|^2 + c |B|^2`` by the normal equations."""
    inner = known.T @ known + ridge * np.eye(known.shape[1])
    by = np.linalg.solve(inner, known.T @ wanted)
    return np.square(wanted - known @ by).sum() + ridge * np.square(by).sum()


def test_each_step_is_the_best_of_all_ridge_regressions():
    told = answers()
    blocks = described(told)
    wanted = np.concatenate(blocks, axis=1)
    ridge = 0.01 * np.mean([np.square(x).sum() for x in blocks])
    found = panel.choose_teachers(told, 5)
    order, total = [], np.square(wanted).sum()
    before = total
    for gain in found.gains:
        losses = {
            t: ridge_loss(
                np.concatenate([blocks[i] for i in [*order, t]], 1), wanted, ridge
            )
            for t in range(5)
            if t not in order
        }
        best = min(losses, key=losses.__getitem__)
        np.testing.assert_allclose(gain, (before - losses[best]) / total, rtol=1e-4)
        known = [blocks[i] for i in order]
        if known:
            own = blocks[best]
            rest = ridge_loss(np.concatenate(known, 1), own, ridge)
            share = 1 - rest / np.square(own).sum()
            np.testing.assert_allclose(found.foretold[best], share, rtol=1e-4)
        order, before = [*order, best], losses[best]
    assert found.teachers.tolist() == order


def test_copies_come_last_however_many_there_are():
    told = answers()
    copy = told.logits[:, 3:6]
    found = panel.choose_teachers(with_others(told, *7 * [copy]), 12)
    same = np.isin(found.teachers, [1, 5, 6, 7, 8, 9, 10, 11])
    assert same[:5].sum() == 1 and same[5:].all()
    assert found.gains[5:].max() < 0.01 < found.gains[:5].min()


def test_whoever_is_constant_is_not_chosen_and_noise_not_before_what_is_shared():
    told = answers(columns=np.arange(0, 45, 3))
    constant = np.tile(np.asarray([[9.0, 0.0, 1.0]], np.float32), (N, 1))
    noise = 3 * np.random.default_rng(5).normal(size=(N, 3)).astype(np.float32)
    both = with_others(told, constant, noise)
    found = panel.choose_teachers(both, 4)
    assert not np.isin([14, 15], found.teachers).any()
    everyone = panel.choose_teachers(both, 16)
    assert 14 not in everyone.teachers and 15 in everyone.teachers
    assert np.isnan(everyone.foretold[14])
    trusted = np.ones(16)
    trusted[15] = 0
    assert 15 not in panel.choose_teachers(both, 16, trusted).teachers


def test_the_order_of_teachers_does_not_matter():
    told = answers()
    order = np.asarray([3, 0, 4, 2, 1])
    other = partial_answers.answers_of(told, order)
    found, moved = (panel.choose_teachers(x, 5) for x in (told, other))
    assert order[moved.teachers].tolist() == found.teachers.tolist()
    np.testing.assert_allclose(moved.gains, found.gains, rtol=1e-5)


def test_answers_asked_one_by_one_are_those_of_all():
    told = answers()
    some = partial_answers.some_of(told, partial_answers.everyone(told))
    found, same = (panel.choose_teachers(x, 3) for x in (told, some))
    assert found.teachers.tolist() == same.teachers.tolist()
    fewer = partial_answers.everyone(told)[:, :4]
    with pytest.raises(ValueError, match="about all images"):
        panel.choose_teachers(partial_answers.some_of(told, fewer), 3)


def test_broken_teachers_are_passed_over_and_nothing_but_constants_is_refused():
    told = answers()
    told.logits[3, 0] = np.nan
    found = panel.choose_teachers(told, 5)
    assert sorted(found.teachers) == [1, 2, 3, 4] and np.isnan(found.foretold[0])
    silent = Answers(np.ones((N, 13), np.float32), COLUMNS)
    with pytest.raises(InputError, match="depends on the image"):
        panel.choose_teachers(silent, 2)


def pool():
    """Two teachers, a copy of the first, and one that always answers the same."""
    stack = toy.random_teachers(toy.ARCH, 4, seed=2)
    first = jax.tree.map(lambda x: jnp.asarray(x).at[2].set(x[0]), stack.variables)
    head = jax.tree.map(lambda x: 5 * x, first["params"]["head"])
    head["kernel"] = head["kernel"].at[3].set(0.0)
    made = {**first, "params": {**first["params"], "head": head}}
    teachers = Teachers(made, stack.class_ids)
    names = tuple(f"c{i}" for i in range(toy.CLASSES))
    return Zoo((ZooGroup(toy.ARCH, teachers, np.full(4, np.nan)),), names)


def test_of_a_zoo_copies_and_constants_are_left_out_with_the_reason():
    stages = {}

    def run(stage, jobs):
        for job in jobs:
            stages.setdefault(stage, []).append(job.name)
            yield job.run()

    key, options = jax.random.key(0), panel.ChoosingOptions(teachers=2, probes=30)
    found = panel.choose_from_zoo(key, pool(), options, run)
    assert found.rows.tolist() in ([0, 1], [1, 2]) and found.asked == 4 * 30
    assert list(stages) == ["probes", "probed"]
    reasons = [told["reason"] for told in found.verdicts]
    assert "less than a quarter of what is usual" in reasons[3]
    left = {0, 2}.difference(found.rows).pop()
    assert found.verdicts[left]["place"] is None
    share = int(reasons[left].split(" %")[0])
    assert share > 95 and "follow from the chosen" in reasons[left]
    assert sorted(told["place"] or 0 for told in found.verdicts) == [0, 0, 1, 2]


def test_nobody_is_asked_where_they_are_drawn_or_the_first():
    key, zoo = jax.random.key(0), pool()

    def rows(by, teachers=2):
        options = panel.ChoosingOptions(teachers=teachers, by=by)
        found = panel.choose_from_zoo(key, zoo, options, run=None)
        places = [told["place"] for told in found.verdicts]
        chosen = [row for row, place in enumerate(places) if place is not None]
        assert chosen == found.rows.tolist() and found.asked == 0
        return chosen

    assert rows("first") == [0, 1] and len(set(rows("random"))) == 2
    assert rows("informative", 0) == rows("random", 9) == [0, 1, 2, 3]


def test_a_run_recovers_from_and_asks_those_alone(
    zoo_path,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    config = parse(zoo_path, "--config.zoo.choose.teachers=2", "--config.num_steps=1")
    config.zoo.choose.probes = 12
    result = train.main(config, str(tmp_path))
    told = result["chosen_teachers"]
    assert told["of"] == 5 and told["asked"] == 5 * 12 and told["by"] == "informative"
    assert [each["place"] for each in told["teachers"]] == [1, 2]
    assert told["asking_gflops"] > 0 and told["seconds"] > 0
    assert result["images_recovered"] == 2 * 5 * 2
    full = json.loads((tmp_path / "chosen_teachers.json").read_text())["teachers"]
    assert len(full) == 5 and full[1]["place"] is None  # The constant one.
    # What is cached is not asked again, also without the later stages.
    (tmp_path / "result.json").unlink()
    done = []
    monkeypatch.setattr(chunks, "timed", lambda job: done.append(job))
    assert train.main(config, str(tmp_path))["chosen_teachers"] == told
    assert not done


def test_a_check_stands_in_for_a_choice_that_nobody_made(zoo_path, tmp_path):  # noqa: F811
    config = parse(zoo_path, "--config.zoo.choose.teachers=2")
    found = dict(train.check(config, str(tmp_path)))
    assert "5 of 2 network(s)" in found["teachers"]
    assert load_zoo(zoo_path).num_teachers == 5 and not list(tmp_path.iterdir())
