"""Which teachers are worth asking: closed forms, and a run that asks those alone."""

import dataclasses
import json
import tracemalloc

import jax
import numpy as np
import pytest
import toy
from test_panel_experiment import parse, run_in, zoo_path  # noqa: F401

from experiments import methods, train
from experiments.harness import chunks, loop, stopping
from experiments.inputs import command_line
from experiments.methods import (
    baselines,
    bidf,
    free,
    preinverted,
    purer,
    tgr,
    trustworthy,
)
from experiments.methods import panel as panel_method
from experiments.stages import choosing
from free_jax import (
    Zoo,
    ZooGroup,
    load_model,
    load_zoo,
    make_network,
    panel,
    save_zoo,
)
from free_jax.errors import InputError
from free_jax.panel import partial_answers
from free_jax.types import Answers
from free_jax.zoo import select, tasks

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
    ridge = 0.001 * np.mean([np.square(x).sum() for x in blocks])
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
    assert found.gains[5:].max() < 0.001 < found.gains[:5].min()


def test_constants_are_not_chosen_and_noise_tells_of_itself_only():
    told = answers(columns=np.arange(0, 45, 3))
    constant = np.tile(np.asarray([[9.0, 0.0, 1.0]], np.float32), (N, 1))
    noise = 3 * np.random.default_rng(5).normal(size=(N, 3)).astype(np.float32)
    both = with_others(told, constant, noise)
    found = panel.choose_teachers(both, 16)
    assert 14 not in found.teachers and np.isnan(found.foretold[14])
    strength = [np.square(x).sum() for x in described(both)]
    gain = found.gains[found.teachers == 15]
    assert gain <= strength[15] / sum(strength)
    assert found.teachers[0] != 15 and found.gains[0] > 4 * strength[0] / sum(strength)
    trusted = np.ones(16)
    trusted[15] = 0
    assert 15 not in panel.choose_teachers(both, 16, trusted).teachers


def test_memory_grows_with_the_answers_alone():
    told = answers(columns=np.arange(0, 3003, 3))
    tracemalloc.start()
    panel.choose_teachers(told, 2)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20 * 8 * told.logits.size  # All outputs by all: 75 times the answers.


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
    """Two trained teachers, a copy of the first, and one that says the same always."""
    stack = jax.tree.map(lambda x: x[np.asarray([0, 1, 0, 2])], toy.trained_teachers())
    head = stack.variables["params"]["head"]
    head = {**head, "kernel": head["kernel"].at[3].set(0.0)}
    params = {**stack.variables["params"], "head": head}
    teachers = stack._replace(variables={**stack.variables, "params": params})
    names = tuple(f"c{i}" for i in range(toy.CLASSES))
    return Zoo((ZooGroup(toy.TINY, teachers, np.full(4, np.nan)),), names)


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

    def asked(stage, jobs):
        pytest.fail(f"{stage}: somebody was asked")

    def rows(by, teachers=2):
        options = panel.ChoosingOptions(teachers=teachers, by=by)
        found = panel.choose_from_zoo(key, zoo, options, run=asked)
        places = [told["place"] for told in found.verdicts]
        chosen = [row for row, place in enumerate(places) if place is not None]
        assert chosen == found.rows.tolist() and found.asked == 0
        return chosen

    assert rows("first") == [0, 1] and len(set(rows("random"))) == 2
    assert rows("informative", 0) == rows("random", 9) == [0, 1, 2, 3]


def test_what_was_asked_is_not_asked_again(tmp_path, monkeypatch):
    options = panel.ChoosingOptions(teachers=2, probes=30)
    first = choosing.chosen(pool(), options, run_in(tmp_path))
    monkeypatch.setattr(chunks, "timed", lambda job: pytest.fail(job.name))
    again = choosing.chosen(pool(), options, run_in(tmp_path))
    assert again.told == first.told and first.seconds > 0
    assert again.zoo.num_teachers == 2
    # Nor is it decided anew, on whatever processor.
    monkeypatch.setattr(choosing, "choose_from_zoo", lambda *_, **__: pytest.fail())
    assert choosing.chosen(pool(), options, run_in(tmp_path)).told == first.told
    assert choosing.chosen(None, options, run_in(tmp_path)).zoo is None


def unequal():
    """Two teachers of three classes, then three of five."""
    groups, first = [], 0
    for way, count in ((3, 2), (5, 3)):
        network = make_network(
            "conv4", num_classes=way, image_shape=(16, 16, 3), width=4
        )
        stack = toy.random_teachers(network, count, seed=way, classes=way)
        groups.append(ZooGroup(network, stack, np.full(count, np.nan)))
        first += way
    return Zoo(tuple(groups), tuple(f"c{i}" for i in range(first)))


@pytest.mark.parametrize("by", ["first", "random", "informative"])
def test_only_those_that_the_method_can_use_are_chosen(tmp_path, by):
    def able(zoo):
        return tasks.able(zoo, 5)

    options = panel.ChoosingOptions(teachers=2, by=by, probes=30)
    found = choosing.chosen(unequal(), options, run_in(tmp_path), able)
    assert [n.num_classes for n in found.zoo.networks] == [5]
    told = json.loads((tmp_path / "chosen_teachers.json").read_text())["teachers"]
    assert [each["teacher"] for each in told] == list(range(5))
    assert all(each["reason"].endswith("cannot use it") for each in told[:2])
    assert sorted(each["place"] or 0 for each in told) == [0, 0, 0, 1, 2]
    assert found.told["chosen_teachers"]["asked"] == (90 if by == "informative" else 0)
    # Any of whom it may be, and no others.
    assert choosing.stand_ins(unequal(), options, able).num_teachers == 3
    fewer = panel.ChoosingOptions(teachers=4, by=by)
    (rest := tmp_path / "rest").mkdir()
    whole = choosing.chosen(unequal(), fewer, run_in(rest), able)
    assert whole.zoo.num_teachers == 3
    assert not whole.told["chosen_teachers"]["asked"]


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        (free.Config(), [2, 3, 4]),
        (purer.Config(), [2, 3, 4]),
        (bidf.Config(), [2, 3, 4, 5]),
        (
            bidf.Config(inversion=bidf.QUERIES._replace(estimator=None)),
            [2, 3, 4],
        ),
        (tgr.Config(), [2, 3, 4]),
        (trustworthy.Config(), [2, 3, 4]),
        (preinverted.Config(), [0, 1, 2, 3, 4]),
        (preinverted.Config(labels="panel"), [0, 1, 2, 3, 4, 5]),
        (panel_method.Config(), [0, 1, 2, 3, 4, 5]),
        (baselines.Config(), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_each_method_says_whom_it_can_use(config, rows):
    zoo = unequal()
    last = zoo.groups[1]
    black = dataclasses.replace(last.network, gives=frozenset())
    alone = dataclasses.replace(last, network=black)
    boxes = select(Zoo((alone,), zoo.class_names), np.asarray([1])).groups
    zoo = Zoo((*zoo.groups, *boxes), zoo.class_names)
    assert methods.able(config, zoo).rows.tolist() == rows


def test_free_is_left_with_those_that_it_can_use(tmp_path, monkeypatch):
    """The first two of a zoo know too few classes for a task."""
    made = []

    def prepared(run, method, schedule, *_):
        made.append(method)
        raise stopping.Stopped

    monkeypatch.setattr(loop, "train", prepared)
    save_zoo(unequal(), tmp_path / "zoo")
    argv = ["run.py", "--config=experiments/configs/demo.py:smoke,free"]
    argv += [f"--config.zoo.path={tmp_path / 'zoo'}", "--config.eval.baselines=()"]
    argv += ["--config.zoo.pretrain.num_teachers=0", "--config.data.image_size=16"]
    argv += ["--config.zoo.choose.teachers=2", "--config.zoo.choose.by=first"]
    config = command_line.parse(argv).config
    assert "fits these teachers" in str(train.check(config, str(tmp_path / "run")))
    train.main(config, str(tmp_path / "run"))
    (teachers,) = made[0].data
    assert teachers.class_ids.shape == (2, 5) and made[0].subject.rows is None


def few_of(path, *extra):
    config = parse(path, "--config.zoo.choose.teachers=2", *extra)
    config.zoo.choose.probes, config.recover.images_per_class = 12, 0
    return config


def test_a_run_asks_those_alone(zoo_path, tmp_path, monkeypatch):  # noqa: F811
    made = []

    def prepared(run, method, schedule, *_):
        made.append((method, schedule))
        raise stopping.Stopped

    monkeypatch.setattr(loop, "train", prepared)
    train.main(few_of(zoo_path), str(tmp_path))
    (method, schedule), chosen = made[0], tmp_path / "chosen_teachers.json"
    assert len(method.data.columns) == 3 and method.meters.answers == 2 * 10
    assert schedule.seconds_before > method.meters.seconds_before
    told = json.loads(chosen.read_text())["teachers"]
    assert len(told) == 5 and told[1]["place"] is None  # The constant one.


@pytest.mark.slow
def test_a_result_says_who_and_why(zoo_path, tmp_path):  # noqa: F811
    result = train.main(few_of(zoo_path, "--config.num_steps=1"), str(tmp_path))
    told = result["chosen_teachers"]
    assert told["of"] == 5 and told["asked"] == 5 * 12 and told["by"] == "informative"
    assert [each["place"] for each in told["teachers"]] == [1, 2]
    assert all(each["reason"].startswith("it predicts") for each in told["teachers"])
    assert told["asking_gflops"] > 0 and result["seconds"] > told["seconds"] > 0
    assert result["cost"]["answers"] == 2 * 10
    assert len(load_model(tmp_path / "model.npz")[2]["teachers"]) == 2


def test_a_check_stands_in_for_a_choice_that_nobody_made(zoo_path, tmp_path):  # noqa: F811
    config = parse(zoo_path, "--config.zoo.choose.teachers=2")
    found = dict(train.check(config, str(tmp_path)))
    assert "5 of 2 networks" in found["teachers"]
    assert load_zoo(zoo_path).num_teachers == 5 and not list(tmp_path.iterdir())
