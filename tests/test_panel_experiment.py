"""Panel distillation from the command line, at the smallest size."""

import json
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from PIL import Image

from experiments import inputs, run, train
from experiments.data import preset, procedural
from experiments.harness import chunks, loop, sections, stopping
from experiments.harness.run import Run
from experiments.inputs import command_line
from experiments.methods import base, checks, identity
from experiments.stages import recover, reuse
from experiments.stages.options import Recovery
from free_jax import (
    Teachers,
    Zoo,
    ZooGroup,
    inversion,
    load_model,
    load_zoo,
    make_network,
    map_tasks,
    panel,
    save_zoo,
)
from free_jax import zoo as zoo_lib
from free_jax.panel import model as distilled
from free_jax.panel import partial_answers
from free_jax.panel.described import Described
from free_jax.types import Answers, SyntheticImages
from free_jax.zoo import subset
from free_jax.zoo.attacks import AttackOptions, attack

CONFIG = "experiments/configs/panel_cifar_fs.py:smoke"
SMALL = [
    "--config.data.image_size=16",
    "--config.student.kwargs.width=4",
    "--config.recover.images_per_class=2",
    "--config.recover.num_steps=2",
    "--config.recover.scenes=10",
    "--config.recover.teachers_at_once=2",
    "--config.eval.episodes=4",
    "--config.eval.val_episodes=2",
    "--config.eval.queries=3",
    "--config.eval.shots=(1,)",  # Of a second number, see the golden run.
    "--config.eval.yardsticks=()",  # Of rows that are not the method's, see others.
    "--config.learner.test_steps=1",
    "--config.zoo.pretrain.num_teachers=0",
    "--config.checkpoint.every_steps=1",
]


@pytest.fixture(scope="module")
def zoo_path(tmp_path_factory):
    """Two groups of untrained teachers of the procedural classes; one is constant."""
    names = procedural.class_names("train")
    chosen = preset("procedural")
    groups = []
    for seed, (width, count) in enumerate([(4, 3), (6, 2)]):
        arch = make_network(
            "conv4",
            num_classes=5,
            image_shape=(16, 16, 3),
            mean=chosen.mean,
            std=chosen.std,
            width=width,
        )
        stack = toy.random_teachers(arch, count, seed=seed).variables
        head = jax.tree.map(lambda x: 5 * x, stack["params"]["head"])
        if seed == 0:
            kernel = head["kernel"].at[1].set(0.0)
            head = {**head, "kernel": kernel}
        variables = {**stack, "params": {**stack["params"], "head": head}}
        # No class twice: untrained teachers would contradict each other.
        ids = jnp.arange(5) + 5 * jnp.arange(3 * seed, 3 * seed + count)[:, None]
        teachers = Teachers(variables, ids.astype(jnp.int32))
        groups.append(ZooGroup(arch, teachers, np.full(count, np.nan), "procedural"))
    folder = tmp_path_factory.mktemp("zoo") / "zoo"
    save_zoo(Zoo(tuple(groups), names), folder)
    return folder


def parse(zoo_path, *extra):
    argv = ["run.py", f"--config={CONFIG}", *SMALL, f"--config.zoo.path={zoo_path}"]
    return command_line.parse([*argv, *extra]).config


def wanted(config):
    """The images that a config asks for."""
    section = sections.read(Recovery, config.recover, "config.recover")
    return base.images_wanted(section, config)


def recipe(config):
    return reuse.recipe(wanted(config), config.seed)


def pre_inverted(config, zoo, run):
    everyone, reuse_of = np.arange(zoo.num_teachers), config.recover.reuse
    return recover.pre_inverted(
        zoo,
        run,
        recover.beginning(zoo, everyone, run, wanted(config), reuse_of=reuse_of),
        labels=config.labels,
        way=config.way,
        images_per_episode=config.replay.shots + config.replay.queries,
    )


def run_in(folder):
    """A run that keeps its parts in a folder."""
    stop = SimpleNamespace(requested=False)
    return Run(str(folder), 0, lambda tree: tree, map_tasks, stop)


@pytest.fixture(scope="module")
def finished(zoo_path, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("panel")
    result = train.main(parse(zoo_path), str(workdir))
    return workdir, result


def test_writes_table_pictures_model_and_trust(finished):
    workdir, result = finished
    assert list(result["results"]) == [
        "panel distilled, centroids",
        "panel distilled, ridge / soft k-means",
        "panel distilled, adapted by gradient",
    ]
    for cells in result["results"].values():
        for protocol in ("transductive", "inductive"):
            assert len(cells["1"][protocol]["per_episode"]) == 4
    model, variables, extra = load_model(workdir / "model.npz")
    assert model.num_classes == 5 * 5
    assert set(variables) == {"params", "batch_stats", "descriptions"}
    embed = jax.jit(distilled.embed, static_argnums=0)
    described = embed(model, variables, np.zeros((2, 16, 16, 3), np.float32))
    assert described.shape == (2, 25)
    assert extra["steps"] == 4
    trust = [teacher["trust"] for teacher in extra["teachers"]]
    np.testing.assert_allclose(trust, variables["descriptions"]["weights"], rtol=1e-5)
    weights = json.loads((workdir / "teachers.json").read_text())["weights"]
    assert weights[1] == 0 and max(weights) > 0  # The constant teacher is left out.
    stored = np.load(workdir / "recovered" / "group0-00000.npz")
    assert stored["images"].shape == (2 * 10, 16, 16, 3)
    assert stored["classes"].max() < 36
    assert np.asarray(Image.open(workdir / "recovered.png")).std() > 1


@pytest.mark.slow
def test_stopped_while_recovering_it_continues_to_the_same_result(
    finished, zoo_path, tmp_path, monkeypatch
):
    calls = []

    def second_time(self):
        calls.append(1)
        return len(calls) >= 2

    with monkeypatch.context() as patch:
        patch.setattr(stopping.StopRequest, "requested", property(second_time))
        config = parse(zoo_path)
        assert train.main(config, str(tmp_path)) == {"stopped_at": 0}
    done = sorted((tmp_path / "recovered").glob("[a-z]*.npz"))
    assert len(done) == 1
    before = done[0].stat().st_mtime_ns
    again = train.main(config, str(tmp_path))
    assert done[0].stat().st_mtime_ns == before
    assert again["results"] == finished[1]["results"]


def test_more_steps_under_a_decaying_rate_are_another_run(finished, zoo_path):
    with pytest.raises(run.InputError, match="num_steps: 4 -> 5"):
        train.main(parse(zoo_path, "--config.num_steps=5"), str(finished[0]))
    constant = parse(zoo_path, "--config.distill.cosine=False")
    assert "num_steps" in identity.may_change(checks.validate(constant))


@pytest.mark.slow
def test_black_box_teachers_are_only_asked(zoo_path, tmp_path, monkeypatch):
    def forbidden(*args, **kwargs):
        pytest.fail("a teacher was inverted")

    monkeypatch.setattr(inversion.recipe, "inverter", forbidden)
    config = parse(zoo_path, "--config.recover.images_per_class=0")
    result = train.main(config, str(tmp_path))
    assert result["results"]


def test_held_out_classes_are_seen_by_the_judge_alone(
    finished, zoo_path, tmp_path, monkeypatch
):
    earlier, _ = finished
    told = []

    def spy(pool, classes):
        told.append((pool, classes, bank_of(pool, classes)))
        return told[-1][-1]

    bank_of = panel.bank_of_classes
    monkeypatch.setattr(panel.transfer_set, "bank_of_classes", spy)
    prepared = []

    def prepare_only(run, method, *_):
        prepared.append(method)
        raise stopping.Stopped

    monkeypatch.setattr(loop, "train", prepare_only)
    config = parse(
        zoo_path,
        f"--config.recover.reuse={earlier}",
        "--config.panel.held_out_classes=7",
        "--config.panel.trust=False",  # judging one teacher alone is another test
    )
    train.main(config, str(tmp_path))
    pool, held_out, bank = told[0]
    zoo = load_zoo(zoo_path)
    rng = run_in(tmp_path).rng("held-out classes")
    choice = panel.choose(rng, zoo, checks.validate(config).panel)
    np.testing.assert_array_equal(choice.held_out, held_out)
    known = np.concatenate([t.class_ids for t in zoo.teachers])
    assert not np.isin(known[choice.asked], choice.held_out).any()
    left_out = np.setdiff1d(np.arange(5), choice.asked)
    assert np.isin(known[left_out], choice.held_out).any(1).all()
    data = prepared[0].data
    assert len(data.columns) == len(choice.asked) + 1
    # Two images a class and teacher, and ten scenes: nothing of the teachers left out.
    assert data.images.shape[0] == 10 * len(choice.asked) + 10
    for number, class_id in enumerate(held_out):
        of_class = pool.images[pool.classes == class_id]
        assert bank.counts[number] == len(of_class)
        np.testing.assert_array_equal(bank.images[number, : len(of_class)], of_class)


def test_a_mislabelled_teacher_is_found_by_the_others_whoever_is_asked(
    zoo_path, tmp_path, monkeypatch, capsys
):
    """Its own images agree with it, so that they must not judge it."""
    rng = np.random.default_rng(0)
    ids, asked, wrong = np.arange(5) + np.zeros((6, 1), int), np.arange(2, 6), 2
    owners = np.repeat([0, 1, 2, 3, 4, 5, -1], [10, 5, 20, 5, 5, 5, 5])
    shown = rng.integers(5, size=len(owners))  # what is in the picture
    classes = np.where(owners == wrong, (shown + 1) % 5, shown)
    classes[owners < 0] = -1
    said = np.repeat(np.eye(5)[shown][:, None], 6, axis=1)
    said[:, wrong] = np.roll(said[:, wrong], 1, axis=1)
    images = np.zeros((len(owners), 16, 16, 3), np.uint8)
    pool = SyntheticImages(images, classes, owners, owners < 0)
    arch = make_network("conv4", num_classes=5, image_shape=(16, 16, 3), width=2)
    teachers = toy.random_teachers(arch, 6)._replace(class_ids=jnp.asarray(ids))
    group = ZooGroup(arch, teachers, np.full(6, np.nan))
    zoo = Zoo((group,), procedural.class_names("train"))
    answers = Answers(
        9 * said[:, asked].reshape(len(owners), -1), panel.equal_columns(4, 5)
    )
    monkeypatch.setattr(reuse, "reuse", lambda *_: (pool, answers))
    choice = panel.PanelChoice(asked, np.zeros(0, int))
    options = panel.PanelOptions(recover=wanted(parse(zoo_path)))
    here = run_in(tmp_path)
    begun = recover.beginning(
        zoo, choice.everyone, here, options.recover, reuse_of="earlier"
    )
    found = recover.described(zoo, choice, here, options, begun).described
    trust = json.loads((tmp_path / "teachers.json").read_text())
    # Numbers are those of the whole zoo, in the file and in what is said.
    assert trust["teachers"] == asked.tolist()
    printed = capsys.readouterr().out
    assert "1 of 4 teachers" in printed and "left out: teacher 2;" in printed
    # Of 45 images of others, 25 are rightly labelled; 15 of those by who is not asked.
    np.testing.assert_allclose(trust["agreement"], [0, *3 * [25 / 45]])
    assert found.weights.tolist() == [0, 1, 1, 1]


def test_images_of_an_earlier_run_are_told_and_counted_as_they_were_made(
    tmp_path, monkeypatch, capsys
):
    """This run's keys of inversion say nothing of them."""
    made = panel.RecoverOptions(image_size=16)
    made = made._replace(inversion=made.inversion._replace(num_steps=7))
    (tmp_path / "recovered").mkdir()
    signed = json.dumps({"recipe": reuse.recipe(made, 0)})
    (tmp_path / "recovered" / reuse.SIGNATURE_FILE).write_text(signed)
    some = np.zeros((2, 16, 16, 3), np.uint8)
    known = (SyntheticImages(some, np.zeros(2), np.zeros(2), np.ones(2)), None)
    monkeypatch.setattr(reuse, "reuse", lambda *_: known)

    def told(wanted):
        here = {"zoo": None, "asked": None, "run": None}
        recover.beginning(**here, wanted=wanted, reuse_of=str(tmp_path))
        return capsys.readouterr().out

    monkeypatch.setattr(recover.choosing, "part_of", lambda run: None)
    assert told(made) == ""
    other = made.inversion._replace(num_steps=150, init="noise")
    line = told(made._replace(inversion=other, image_size=32))
    assert "inversion.init=dead_leaves (here noise)" in line
    assert "inversion.num_steps=7 (here 150)" in line
    assert "16 pixels (here 32)" in line and line.count("\n") == 1
    # Of teachers that are only asked nothing is inverted.
    assert told(made._replace(inversion=other, images_per_class=0)) == ""
    # What the recipe does not hold stands in the run's config.
    config = {"recover": {"inversion": {"objective": {"moments": 0.5}}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "inversion.objective.moments=0.5 (here 0.3)" in told(made)
    wanted = made._replace(inversion=other)
    assert recover.gradients(str(tmp_path), 20, wanted) == 140
    assert recover.gradients("", 20, wanted) == 3000


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--config.panel.held_out_classes=3", "must be between 5 and 20"),
        ("--config.panel.held_out_classes=20", "every teacher knows one of them"),
        ("--config.recover.start=photos", "choose one of noise, dead_leaves"),
        ("--config.recover.backend=pixel", "choose one of "),
        ("--config.distill.whitening=-1.0", "whitening=-1.0 must not be negative"),
        ("--config.distill.calibrate_images=-1", "must not be negative"),
        ("--config.dtype=float16", "choose one of float32, bfloat16"),
        ("--config.distill.mix=paste", "choose one of none, mixup, cutmix"),
        ("--config.eval.select=pseudo", "choose last or val"),
        ("--config.recover.scenes=-1", "must not be negative"),
        ("--config.distill.temperature=0.0", "temperature=0.0 must be positive"),
    ],
)
def test_bad_config_is_one_clear_line(zoo_path, tmp_path, capsys, override, message):
    argv = ["run.py", f"--config={CONFIG}", *SMALL, f"--config.zoo.path={zoo_path}"]
    argv += [f"--workdir={tmp_path}", override, "--distributed=off"]
    assert run.main([*argv, "--compilation_cache=off"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_nothing_to_learn_from_is_refused(zoo_path, tmp_path):
    config = parse(
        zoo_path, "--config.recover.images_per_class=0", "--config.recover.scenes=0"
    )
    with pytest.raises(run.InputError, match="leave nothing to learn from"):
        train.main(config, str(tmp_path))


@pytest.mark.slow
def test_some_voices_an_image_and_one_output_a_class(zoo_path, tmp_path, capsys):
    few = ["--config.num_steps=2", "--config.distill.heads=class"]
    config = parse(zoo_path, "--config.panel.asked_per_image=2", *few)
    result = train.main(config, str(tmp_path / "some"))
    kept = [np.load(f) for f in sorted((tmp_path / "some/described").glob("*.npz"))]
    images = np.concatenate([part["images"] for part in kept])
    assert (np.bincount(images) == 2).all()
    told = reuse._answers([dict(part) for part in kept])
    # As it was first kept: NaN of those that were not asked.
    dense = partial_answers.of_all(told)
    asked = np.isfinite(dense.logits).reshape(-1, 5, 5).all(2)
    former = {"logits": dense.logits, "columns": dense.columns, "asked": asked}
    again = reuse._answers([former])
    np.testing.assert_array_equal(again.teachers, told.teachers)
    np.testing.assert_array_equal(again.logits, told.logits)
    # The pool says by itself that some were asked.
    taken = parse(zoo_path, f"--config.recover.reuse={tmp_path / 'some'}", *few)
    again = train.main(taken, str(tmp_path / "again"))
    assert again["results"] == result["results"]
    other = [f"--config.recover.reuse={tmp_path / 'some'}", *few]
    other += ["--config.panel.asked_per_image=3"]
    with pytest.raises(run.InputError, match="about 2 teachers were asked"):
        train.main(parse(zoo_path, *other), str(tmp_path / "other"))
    with pytest.raises(run.InputError, match="asked_per_image to 0"):
        train.main(
            parse(zoo_path, *other, "--config.distill.mix=mixup"), str(tmp_path / "mix")
        )


@pytest.mark.slow  # By default, a whole run reuses in `test_old_workdir`.
def test_a_run_that_reuses_all_of_an_earlier_one_is_that_run(
    finished, zoo_path, tmp_path, monkeypatch
):
    earlier, result = finished
    monkeypatch.setattr(chunks, "cached", lambda *a, **k: pytest.fail("asked anew"))
    config = parse(zoo_path, f"--config.recover.reuse={earlier}")
    again = train.main(config, str(tmp_path / "all"))
    assert again["results"] == result["results"]


def test_images_and_answers_of_an_earlier_run_are_used_again(
    finished, zoo_path, tmp_path
):
    earlier, _ = finished
    # Part of it: fewer images and scenes, one teacher a group.
    config = parse(
        zoo_path,
        f"--config.recover.reuse={earlier}",
        "--config.recover.images_per_class=1",
        "--config.recover.scenes=5",
        "--config.panel.teachers=1",
    )
    zoo = load_zoo(zoo_path)
    pool, answers = reuse.reuse(str(earlier), zoo, np.asarray([0, 3]), wanted(config))
    assert pool.images.shape == (5 * 5 + 5, 16, 16, 3)
    assert answers.columns.tolist() == [0, 5, 10]
    logits = answers.logits.reshape(30, 2, 5)
    everything, answers = reuse.reuse(
        str(earlier), zoo, np.arange(5), wanted(parse(zoo_path))
    )
    answers = answers.logits.reshape(-1, 5, 5)
    for i in (0, 7, 29):
        same = (everything.images == pool.images[i]).all((1, 2, 3))
        np.testing.assert_array_equal(answers[same][0, [0, 3]], logits[i])
    for owner in range(5):
        mine = pool.classes[pool.owners == owner]
        assert len(set(mine.tolist())) == 5
    with pytest.raises(run.InputError, match="give the workdir of a panel run"):
        reuse.reuse(str(tmp_path / "nothing"), zoo, np.arange(5), wanted(config))


def test_chosen_teachers_use_again_what_all_were_asked(
    finished, zoo_path, tmp_path, monkeypatch
):
    earlier, _ = finished
    made = []

    def prepared(run, method, *_, **__):
        made.append(method.data)
        raise stopping.Stopped

    monkeypatch.setattr(loop, "train", prepared)
    config = parse(zoo_path, f"--config.recover.reuse={earlier}")
    config.zoo.choose.teachers, config.zoo.choose.by = 3, "random"
    config.panel.trust = False
    found = dict(train.check(config, str(tmp_path / "run")))
    assert "enough, of these teachers" in found["earlier run"]
    train.main(config, str(tmp_path / "run"))
    told = json.loads((tmp_path / "run" / "chosen_teachers.json").read_text())
    rows = [each["teacher"] for each in told["teachers"] if each["place"]]
    few = zoo_lib.select(load_zoo(zoo_path), np.asarray(rows))
    part = reuse.Part(told["zoo"], np.asarray(rows))
    asked = np.asarray([0, 2])
    pool, answers = reuse.reuse(str(earlier), few, asked, wanted(config), part)
    # Two images of five classes of each of the three, and ten dead leaves.
    assert np.bincount(pool.owners + 1).tolist() == [10, 10, 10, 10]
    whole, said = reuse.reuse(
        str(earlier), load_zoo(zoo_path), np.arange(5), wanted(parse(zoo_path))
    )
    mine = np.isin(whole.owners, [-1, *rows])
    np.testing.assert_array_equal(pool.images, np.asarray(whole.images)[mine])
    ids = load_zoo(zoo_path).class_ids.reshape(5, 5)
    for owner, known in zip(pool.owners, pool.classes, strict=True):
        assert owner < 0 or known in ids[rows[owner]]
    logits = said.logits.reshape(-1, 5, 5)[mine][:, [rows[0], rows[2]]]
    np.testing.assert_array_equal(answers.logits.reshape(40, 2, 5), logits)
    assert len(made[0].columns) == 4 and len(made[0].images) == 40
    with pytest.raises(run.InputError, match="come from other teachers"):
        other = part._replace(zoo="others")
        reuse.reuse(str(earlier), few, asked, wanted(config), other)


def test_recovered_tasks_are_labelled_by_their_teacher_or_by_all(
    finished, zoo_path, tmp_path, monkeypatch
):
    earlier, _ = finished
    zoo = load_zoo(zoo_path)
    argv = ["run.py", "--config=experiments/configs/preinverted_cifar_fs.py:smoke"]
    argv += [f"--config.recover.reuse={earlier}", "--config.recover.images_per_class=2"]

    def bank_of(*extra):
        config = command_line.parse([*argv, *extra]).config
        return pre_inverted(config, zoo, run_in(tmp_path))

    pool, answers = reuse.reuse(
        str(earlier), zoo, np.arange(5), wanted(command_line.parse(argv).config)
    )
    logits = answers.logits.reshape(-1, 5, 5)
    owned = np.bincount(pool.classes, minlength=zoo.num_classes)
    np.testing.assert_array_equal(bank_of().counts, owned)
    # By hand: every class is known to one teacher or none, so that the surest answer
    # of a teacher that is believed (one is constant) decides.
    weights = json.loads((earlier / "teachers.json").read_text())["weights"]
    believed = np.flatnonzero(weights)
    assert 0 < len(believed) < len(weights)
    ids = np.concatenate([t.class_ids for t in zoo.teachers])[believed]
    p = np.asarray(jax.nn.softmax(logits[:, believed])).reshape(len(logits), -1)
    voted = np.bincount(ids.ravel()[p.argmax(1)], minlength=zoo.num_classes)
    fewest = f"--config.replay.queries={np.sort(voted)[-5] - 1}"
    by_panel = bank_of("--config.replay.labels=panel", fewest)
    np.testing.assert_array_equal(by_panel.counts, voted)
    assert (owned != voted).any()
    with pytest.raises(run.InputError, match="classes are left with the 100 images"):
        bank_of("--config.replay.labels=panel", "--config.replay.queries=99")

    # Without an earlier run the same images are asked about anew.
    monkeypatch.setattr(panel, "recover_zoo", lambda *_, **__: pool)
    anew = pre_inverted(
        command_line.parse([*argv[:2], "--config.replay.labels=panel", fewest]).config,
        zoo,
        run_in(tmp_path),
    )
    np.testing.assert_array_equal(anew.counts, voted)
    np.testing.assert_array_equal(anew.images, by_panel.images)


def test_a_vote_needs_all_who_know_a_class():
    ids = np.asarray([[0, 1], [0, 2], [1, 2]])
    p = [[0.9, 0.1], [0.1, 0.9], [0.4, 0.6]]  # one takes it for class 0, two for 2
    logits = np.log(np.asarray([p])) + 7.0  # logits are known up to a constant
    mean = {
        c: np.mean(
            [np.log(p[t][i]) for t in range(3) for i in (0, 1) if ids[t, i] == c]
        )
        for c in range(3)
    }
    answers = Answers(logits.reshape(1, -1), panel.equal_columns(3, 2))
    assert panel.vote(answers, ids.ravel(), 5) == max(mean, key=mean.__getitem__) == 2


def test_answers_do_not_depend_on_how_many_images_are_asked_about_at_once(
    zoo_path, tmp_path
):
    zoo = load_zoo(zoo_path)
    images = np.random.default_rng(0).integers(0, 256, (11, 16, 16, 3), np.uint8)
    found = [
        panel.ask_zoo(
            zoo,
            images,
            run_in(tmp_path / f"{at_once}").cached,
            chunk=8,
            at_once=at_once,
        ).logits
        for at_once in (8, 4)
    ]
    assert found[0].shape == (11, 25)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-5)


def test_a_smaller_pool_or_another_zoo_is_not_used_again(finished, zoo_path):
    earlier = str(finished[0])
    zoo = load_zoo(zoo_path)
    for override, message in [
        ("scenes=11", "holds dead_leaves=10, fewer than config.recover.dead_leaves=11"),
        ("images_per_class=3", "holds images_per_class=2, fewer than"),
    ]:
        config = parse(zoo_path, f"--config.recover.{override}")
        with pytest.raises(run.InputError, match=message):
            reuse.reuse(earlier, zoo, np.arange(5), wanted(config))
    broken = attack(zoo, AttackOptions(share=0.5), seed=0).zoo
    for other in (broken, subset(zoo, 1)):
        with pytest.raises(run.InputError, match="come from other teachers"):
            reuse.reuse(earlier, other, np.arange(2), wanted(parse(zoo_path)))
    with pytest.raises(run.InputError, match="asked 5 teachers, fewer"):
        reuse.reuse(earlier, zoo, np.arange(6), wanted(parse(zoo_path)))
    with pytest.raises(run.InputError, match="the zoo has changed since"):
        reuse.sign(earlier, broken, np.arange(5), recipe(parse(zoo_path)))
    # The same teachers, computing in another type: within rounding.
    rounded = inputs.computing_in(zoo, "bfloat16")
    assert reuse.fingerprint(rounded) == reuse.fingerprint(zoo)
    assert reuse.fingerprint(broken) != reuse.fingerprint(zoo)


def test_answers_of_part_of_a_zoo_are_used_again_by_those_who_gave_them(
    finished, zoo_path, tmp_path
):
    zoo = load_zoo(zoo_path)
    few, folder = np.asarray([0, 3]), str(tmp_path / "few")
    for stage in ("recovered", "described"):
        shutil.copytree(finished[0] / stage, tmp_path / "few" / stage)
    whole = reuse.everything("x", folder, zoo, np.arange(5))
    for file in chunks.finished(folder, "described"):
        arrays = chunks.read_chunk(file)
        outputs = panel.outputs_of(zoo.columns, few)
        arrays["logits"] = arrays["logits"][:, outputs]
        np.savez(file, **(arrays | {"columns": panel.equal_columns(2, 5)}))
    (tmp_path / "few" / "recovered" / reuse.SIGNATURE_FILE).unlink()
    reuse.sign(folder, zoo, few, recipe(parse(zoo_path)))
    images, answers = reuse.reuse(folder, zoo, few, wanted(parse(zoo_path)))
    np.testing.assert_array_equal(images.images, whole[0].images)
    np.testing.assert_array_equal(
        answers.logits, panel.answers_of(whole[1], few).logits
    )
    # As many others: the number of columns alone does not tell.
    for others in ([0, 4], [1, 3], [0]):
        with pytest.raises(run.InputError, match="asked 2 teachers of the zoo, not"):
            reuse.reuse(folder, zoo, np.asarray(others), wanted(parse(zoo_path)))


def test_sabotage_breaks_the_share_it_is_told(zoo_path):
    zoo = load_zoo(zoo_path)
    broken = attack(zoo, AttackOptions(share=0.5), seed=0).zoo
    for before, after in zip(zoo.groups, broken.groups, strict=True):
        same_ids = (before.teachers.class_ids == after.teachers.class_ids).all(1)
        kernels = [
            np.asarray(group.teachers.variables["params"]["conv1"]["kernel"])
            for group in (before, after)
        ]
        same_weights = (kernels[0] == kernels[1]).reshape(len(kernels[0]), -1).all(1)
        harmed = ~np.asarray(same_ids) | ~same_weights
        assert harmed.sum() == np.ceil(before.num_teachers / 2)
        assert (~np.asarray(same_ids)).sum() >= 1
        # The same classes, in another order.
        for a, b in zip(
            before.teachers.class_ids, after.teachers.class_ids, strict=True
        ):
            assert set(a.tolist()) == set(b.tolist())
    with pytest.raises(run.InputError, match="between 0 and 1"):
        attack(zoo, AttackOptions(share=1.5), seed=0)


def test_only_images_most_like_real_ones_calibrate(zoo_path):
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    inverted = np.asarray([True, False, True, True, False, False])
    natural = np.ones(6, bool)
    both = Described(
        images, np.zeros((6, 5)), np.asarray([0, 5]), np.ones(1), inverted, natural
    )
    scenes = both._replace(recovered=np.zeros(6, bool))

    def chosen(described, *extra):
        count = parse(zoo_path, *extra).distill.fit_images
        found = panel.fit_images(np.random.default_rng(0), described, count)
        return None if found is None else found.ravel().tolist()

    assert chosen(both) == [0, 2, 3]  # Inversions from scenes, where there are any.
    assert chosen(scenes) == [0, 1, 2, 3, 4, 5]  # Else what teachers were asked about.
    assert len(chosen(both, "--config.distill.calibrate_images=2")) == 2
    assert chosen(both, "--config.distill.calibrate_images=0") is None
    # Each image by how it was made, whatever this run would have made.
    renewed = both._replace(natural=np.asarray([True] * 3 + [False] + [True] * 2))
    assert chosen(renewed, "--config.recover.start=noise") == [0, 2]
    assert chosen(both._replace(natural=~inverted)) is None


def test_a_pool_that_is_used_again_tells_how_it_was_made(
    finished, zoo_path, tmp_path, capsys
):
    """Whatever the config of the run that uses it; old pools by their config."""
    zoo = load_zoo(zoo_path)
    for folder in ("recovered", "described"):
        shutil.copytree(finished[0] / folder, tmp_path / folder)
    # As an earlier version left it, whose random keys were others.
    assert not (tmp_path / "format.json").exists()
    for file in chunks.finished(tmp_path, "recovered"):
        arrays = chunks.read_chunk(file)
        assert arrays.pop("natural").all()
        np.savez(file, **arrays)
    for file in chunks.finished(tmp_path, "described"):
        arrays = chunks.read_chunk(file)
        arrays.pop("columns")
        arrays["logits"] = arrays["logits"].reshape(-1, 5, 5)
        np.savez(file, **arrays)
    note = tmp_path / "recovered" / reuse.SIGNATURE_FILE
    signed = json.loads(note.read_text())
    assert signed["recipe"]["source"] == "pixels"
    assert signed["recipe"]["init"] == "dead_leaves"

    def natural(recipe=None, config=None, this="scenes"):
        kept = {key: value for key, value in signed.items() if key != "recipe"}
        note.write_text(json.dumps(kept | ({"recipe": recipe} if recipe else {})))
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps({"recover": config}))
        mine = parse(zoo_path, f"--config.recover.start={this}")
        pool, _ = reuse.reuse(str(tmp_path), zoo, np.arange(5), wanted(mine))
        assert pool.natural[pool.owners < 0].all()
        (found,) = set(pool.natural[pool.owners >= 0].tolist())
        return found

    assert natural(signed["recipe"], this="noise")
    assert not natural(recipe(parse(zoo_path, "--config.recover.start=noise")))
    for backend in ("generator", "five"):
        made = recipe(parse(zoo_path, f"--config.recover.backend={backend}"))
        assert made["source"] == "generator" and not natural(made)
    assert "does not say" not in capsys.readouterr().out
    assert not natural()
    said = capsys.readouterr().out
    assert said.count("does not say how its images were made") == 1
    assert natural(config={"backend": "pixels", "start": "scenes"}, this="noise")
    assert not natural(config={"backend": "pixels", "start": "noise"})
    assert not natural(config={"backend": "five", "start": "scenes"})
    assert "does not say" not in capsys.readouterr().out
