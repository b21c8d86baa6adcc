"""From teachers alone to a model: no data set is named, none is read."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from PIL import Image

import free_jax as fj
from experiments import inputs, train
from experiments.data import procedural
from experiments.evaluation import predictions
from experiments.harness import loop, stopping
from experiments.inputs import command_line
from experiments.inputs.options import DataOptions
from experiments.methods import checks, identity
from experiments.stages import estimate, reuse
from free_jax import inversion, panel, zoo
from free_jax.errors import InputError
from free_jax.fewshot import heads
from free_jax.interop import hub
from free_jax.inversion import Quota
from free_jax.inversion.objective import moments_weight
from free_jax.objectives import moment_matching
from free_jax.zoo.network import make_network

SMALL = [
    "--config.student.kwargs.width=4",
    "--config.recover.images_per_teacher=6",
    "--config.recover.inversion.num_steps=2",
    "--config.recover.dead_leaves=10",
    "--config.num_steps=2",
    "--config.distill.batch_size=8",
    "--config.eval.episodes=3",
    "--config.eval.val_episodes=0",
    "--config.eval.shots=(1,)",
    "--config.eval.queries=2",
    "--config.eval.baselines=('panel',)",
    "--config.learner.test_steps=1",
]


def network(num_classes, side=16, **kwargs):
    given = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3), "width": 4} | kwargs
    return make_network(
        "conv4", num_classes=num_classes, image_shape=(side, side, 3), **given
    )


def one_of(network, seed):
    """Variables of one untrained teacher."""
    made = toy.random_teachers(network, 1, seed=seed, classes=network.num_classes)
    return jax.tree.map(lambda x: np.array(x[0]), toy.host(made.variables))


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """Two networks; teachers of 4, 5 and 7 classes; one that only answers."""

    def teacher(name, made, seed):
        # Untrained, but not of one mind about every image.
        variables = one_of(made, seed)
        variables["params"]["head"]["kernel"] *= 5
        names = [f"{name}{i}" for i in range(made.num_classes)]
        return zoo.Teacher(name, made, variables, tuple(names))

    silent = network(5, gives={"features"})
    made, _ = zoo.assemble(
        [
            teacher("four", network(4), 0),
            teacher("seven", network(7), 1),
            teacher("large", network(5, side=24, width=6), 2),
            teacher("silent", silent, 3),
        ]
    )
    folder = tmp_path_factory.mktemp("unequal") / "zoo"
    zoo.save_zoo(made, folder)
    return folder


def run(zoo_path, workdir, *extra, config="panel.py"):
    argv = ["run.py", f"--config=experiments/configs/{config}", *SMALL]
    argv += [f"--config.zoo.path={zoo_path}", *extra]
    return train.main(command_line.parse(argv).config, str(workdir))


@pytest.fixture(scope="module")
def without(unequal, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("without")
    return workdir, run(unequal, workdir)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """{val,test}/<class>/*.png"""
    folder = tmp_path_factory.mktemp("pictures")
    for split in ("val", "test"):
        drawn = procedural.make_split(split, image_size=16).images
        for number, images in enumerate(drawn[:6]):
            target = folder / split / f"class{number}"
            target.mkdir(parents=True)
            for i in range(7):
                Image.fromarray(images[i]).save(target / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """<class>/*.png, of another size, without colours, a class with one picture."""
    folder = tmp_path_factory.mktemp("leaves")
    drawn = procedural.make_split("test", image_size=21).images
    for number, images in enumerate(drawn[:7]):
        (folder / f"leaf{number}").mkdir()
        for i in range(2 if number else 1):
            picture = Image.fromarray(images[i]).convert("L")
            picture.save(folder / f"leaf{number}" / f"{i}.png")
    return folder


def test_a_run_needs_teachers_and_nothing_else(unequal, without, capsys):
    workdir, result = without
    student, variables, notes = fj.load_model(workdir / "model.npz")
    # What most teachers see, and the sum of what they know.
    assert student.image_shape == (16, 16, 3) and student.num_classes == 4 + 7 + 5 + 5
    np.testing.assert_allclose(student.mean, (0.4, 0.5, 0.6))
    columns = np.asarray(variables["descriptions"]["columns"])
    assert sorted(np.diff(columns)) == [4, 5, 5, 7]
    assert result["results"] == {} and notes["algorithm"] == "panel"
    # 6 images a teacher, of 4, 7 and 5 classes; the one without gradients is asked.
    assert result["images_recovered"] == 4 + 6 + 5
    assert "not measured" in (workdir / "table.md").read_text()
    embed = jax.jit(panel.model.embed, static_argnums=0)
    said = embed(student, variables, np.zeros((2, 40, 30, 3), np.uint8))
    assert said.shape == (2, 21) and np.isfinite(said).all()


def written(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/*.npz")}


def test_real_images_teach_nothing(unequal, without, pictures, tmp_path, monkeypatch):
    """What is learned from is the same, bit for bit, where images are at hand."""
    workdir, _ = without
    learned_from = []

    def prepared(run, method, *_):
        learned_from.append(method.data)
        raise stopping.Stopped

    monkeypatch.setattr(loop, "train", prepared)
    for name, extra in (("a", ()), ("b", (f"--config.data.path={pictures}",))):
        for part in ("recovered", "described"):
            shutil.copytree(workdir / part, tmp_path / name / part)
        shutil.copy(workdir / "format.json", tmp_path / name)
        before = written(tmp_path / name)
        run(unequal, tmp_path / name, *extra)
        # Parts that a run with images would make otherwise would be made anew.
        assert before and before.items() <= written(tmp_path / name).items()
    for first, second in zip(*map(jax.tree.leaves, learned_from), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.slow  # In the default run: the test above, and the one of measuring later.
def test_real_images_only_measure(unequal, without, pictures, tmp_path):
    workdir, _ = without
    result = run(unequal, tmp_path, f"--config.data.path={pictures}")
    first, second = (np.load(w / "model.npz") for w in (workdir, tmp_path))
    for name in first.files:
        if name != "header":
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    rows = result["results"]
    assert set(rows) > {"panel distilled, centroids"}
    assert all(np.isfinite(r["1"]["inductive"]["mean"]) for r in rows.values())


def check_leaves(result, workdir):
    row = result["results"]["panel distilled, centroids on leaves"]["1"]
    # Six classes of two images: one supports, one is asked about.
    assert len(row["inductive"]["per_episode"]) == 3
    assert all(s % 20 == 0 for s in row["inductive"]["per_episode"])
    assert "on leaves" in (workdir / "table.md").read_text()


@pytest.mark.slow
def test_a_finished_run_is_measured_on_further_folders_alone(
    unequal, without, grey, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(without[0], workdir)
    before = (workdir / "model.npz").read_bytes()
    result = run(unequal, workdir, f"--config.eval.also=leaves:{grey}")
    assert (workdir / "model.npz").read_bytes() == before
    check_leaves(result, workdir)


def test_a_finished_run_is_measured_later(unequal, without, pictures, grey):
    """On a benchmark and on a further folder."""
    workdir, _ = without
    before = np.load(workdir / "model.npz")["params/params/head/kernel"]
    later = (f"--config.data.path={pictures}", f"--config.eval.also=leaves:{grey}")
    result = run(unequal, workdir, *later)
    rows = result["results"]
    assert set(rows) > {"panel distilled, centroids"}
    assert all(np.isfinite(r["1"]["inductive"]["mean"]) for r in rows.values())
    check_leaves(result, workdir)
    assert run(unequal, workdir, *later)["results"] == rows
    after = np.load(workdir / "model.npz")["params/params/head/kernel"]
    np.testing.assert_array_equal(before, after)
    assert json.loads((workdir / "result.json").read_text())["results"]


def test_what_cannot_be_known_is_refused_at_the_start(unequal, tmp_path):
    with pytest.raises(InputError, match="no real images to select by"):
        run(
            unequal,
            tmp_path,
            "--config.eval.select=val",
            "--config.eval.val_episodes=2",
        )
    with pytest.raises(InputError, match="no teacher can take part"):
        argv = ["run.py", "--config=experiments/configs/free.py", "--config.way=50"]
        config = command_line.parse([*argv, f"--config.zoo.path={unequal}"]).config
        train.main(config, str(tmp_path / "free"))
    with pytest.raises(InputError, match="no such folder"):
        run(unequal, tmp_path, f"--config.data.path={tmp_path}/nowhere")
    assert not (tmp_path / "recovered").exists()
    with pytest.raises(InputError, match=r"data\.name is empty"):
        inputs.preset(DataOptions())


def test_the_images_are_those_of_most_teachers(unequal):
    def of(*networks, **data):
        made = [
            zoo.Teacher(
                str(i),
                n,
                one_of(n, i),
                tuple(f"{i}-{j}" for j in range(n.num_classes)),
            )
            for i, n in enumerate(networks)
        ]
        return inputs.preset(DataOptions(**data), zoo.assemble(made).zoo)

    small, large = network(3), network(3, side=96, mean=(0.1, 0.2, 0.3))
    grey = make_network(
        "conv4",
        num_classes=3,
        image_shape=(20, 20, 1),
        width=4,
        mean=(0.3,),
        std=(1.0,),
    )
    assert of(small, large, network(4)).image_size == 16
    found = of(small, large, network(2, side=96, mean=(0.1, 0.2, 0.3)))
    assert found.image_size == 64, "no larger on a CPU"
    np.testing.assert_allclose(found.mean, (0.1, 0.2, 0.3))
    assert of(small, large, image_size=48).image_size == 48
    assert of(small, large, name="cifar_fs").image_size == 32
    assert of(small, grey, grey).image_size == 20
    assert len(of(small, grey).mean) == 3 and len(of(grey).mean) == 1


@pytest.mark.parametrize("classes", [2, 5, 7, 30, 200, 1000])
def test_no_teacher_gives_more_than_its_quota(classes):
    quota = Quota(40, 200)
    labels = np.asarray(quota.labels(jax.random.key(0), classes))
    assert len(labels) == quota.images(classes) <= 200
    counts = np.bincount(labels, minlength=classes)
    assert len(set(counts[counts > 0])) == 1 and (counts <= 40).all()
    assert (counts > 0).sum() == min(classes, 200)
    other = np.asarray(quota.labels(jax.random.key(1), classes))
    assert np.array_equal(labels, other) == (classes <= 200)
    assert Quota(40).images(classes) == 40 * classes


def test_a_teacher_of_many_classes_recovers_those_that_were_drawn():
    made = network(9)
    variables = jax.tree.map(lambda x: np.stack([x, x]), one_of(made, 0))
    ids = jnp.arange(18, dtype=jnp.int32).reshape(2, 9)
    group = zoo.ZooGroup(made, fj.Teachers(variables, ids), np.full(2, np.nan))
    teachers = zoo.Zoo((group,), tuple(map(str, range(18))))
    recipe = inversion.Recipe(num_steps=1)
    jobs = inversion.recovery_jobs(
        jax.random.key(0),
        teachers,
        recipe,
        images_per_class=2,
        images_per_teacher=4,
        at_once=2,
        image_shape=(16, 16, 3),
    )
    found = inversion.images_of([job.run() for job in jobs])
    first, second = found.classes[:4], found.classes[4:]
    assert len(set(first)) == len(set(second)) == 4
    assert set(first) <= set(range(9)) and set(second) <= set(range(9, 18))
    assert set(first) != {c - 9 for c in second}, "drawn for each teacher"


def test_networks_without_statistics_are_inverted_without_them():
    bare = network(3, gives={"gradients", "features"})
    recipe = inversion.Recipe()
    with pytest.raises(InputError, match="moments"):
        inversion.build(recipe, bare)
    suited = inversion.suited(recipe, bare)
    assert suited.objective.moments == 0 and recipe.objective.moments
    inversion.build(suited, bare)
    assert inversion.suited(recipe, network(3)) == recipe


def test_descriptions_longer_than_a_matrix_are_whitened_alike():
    rng = np.random.default_rng(0)
    mix, new = (jnp.asarray(rng.normal(size=(n, 60)), jnp.float32) for n in (60, 10))
    rows = jnp.asarray(rng.normal(size=(40, 60)) @ np.asarray(mix), jnp.float32)

    def whitened(fitted):
        return np.asarray(heads.whiten(new, *fitted))

    exact = whitened(heads.whitening(rows, 0.5))
    leading = whitened(heads.leading_whitening(rows, 0.5, 40))
    np.testing.assert_allclose(leading @ leading.T, exact @ exact.T, atol=1e-4)
    # Fewer directions: nearer to it than none.
    few = whitened(heads.leading_whitening(rows, 0.5, 20))
    none = whitened(heads.leading_whitening(rows, 0.5, 1))
    wrong = [np.abs(x @ x.T - exact @ exact.T).max() for x in (few, none)]
    assert wrong[0] < wrong[1]
    same = whitened(heads.leading_whitening(jnp.ones((5, 60)), 0.5))
    assert np.isfinite(same).all()


def test_one_program_a_network_says_what_one_of_all_says(unequal):
    teachers = fj.load_zoo(unequal)
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), np.uint8)
    together = panel.embedder(teachers.networks)
    apart = panel.compiled_embedder(teachers.networks)
    np.testing.assert_allclose(
        apart(teachers.teachers, images),
        jax.jit(together)(teachers.teachers, images),
        atol=1e-6,
    )


def test_statistics_weigh_alike_in_networks_of_any_depth_and_scale():
    def weight(**kwargs):
        made = network(5, side=32, **kwargs)
        options = inversion.Objective(moments=0.7, balance=True)
        return moments_weight(options, made)

    assert weight(width=32) == 0.7 * 1.0
    np.testing.assert_allclose(weight(width=128), 0.35, rtol=1e-6)
    assert moments_weight(inversion.Objective(), network(5)) == 1.0
    running = {"bn": {"mean": jnp.asarray([1.0, -2.0]), "var": jnp.asarray([4.0, 9.0])}}
    found = {"bn": {"mean": jnp.asarray([3.0, 1.0]), "var": jnp.asarray([2.0, 18.0])}}
    # Two deviations of one unit; variances half below, and as much again.
    wanted = 2**0.5 + (0.5**2 + 1.0) ** 0.5
    assert moment_matching(found, running, relative=True) == pytest.approx(wanted, 1e-4)

    def scaled(tree, by):
        return {
            "bn": {"mean": by * tree["bn"]["mean"], "var": by**2 * tree["bn"]["var"]}
        }

    larger = moment_matching(scaled(found, 50.0), scaled(running, 50.0), relative=True)
    assert larger == pytest.approx(wanted, 1e-4)
    assert moment_matching(found, running) == pytest.approx(13**0.5 + 85**0.5, 1e-4)


def test_an_estimate_counts_what_is_asked_for(unequal):
    teachers = fj.load_zoo(unequal)
    student = network(int(teachers.columns[-1]))
    everyone = np.arange(teachers.num_teachers)

    def of(asked=everyone, **options):
        wanted = panel.RecoverOptions(images_per_class=2, dead_leaves=10, **options)
        return estimate.estimate(
            teachers, student, wanted, asked=asked, batch_size=4, num_steps=3
        )

    found = of()
    assert min(found[:3]) > 0
    weights = sum(x.nbytes for x in jax.tree.leaves(teachers.teachers))
    # Two of each class of the three that give gradients, and the leaves.
    images = 2 * (4 + 7 + 5) + 10
    assert found.memory == weights + images * (16 * 16 * 3 + 4 * 21)
    assert of(inversion=inversion.Recipe(num_steps=1)).recovering < found.recovering
    assert estimate.operations(network(5, side=32)) > estimate.operations(network(5))


def test_a_pool_is_reused_by_the_quotas_of_its_teachers(unequal, without):
    workdir, _ = without
    teachers = fj.load_zoo(unequal)

    def reused():
        wanted = panel.RecoverOptions(dead_leaves=10, images_per_teacher=6)
        return reuse.reuse(str(workdir), teachers, np.arange(4), wanted)

    images, answers = reused()
    known = sorted(np.bincount(images.owners[images.owners >= 0], minlength=4).tolist())
    assert known == [0, 4, 5, 6] and len(answers.logits) == 4 + 5 + 6 + 10
    with pytest.raises(InputError, match="holds dead_leaves=10, fewer than"):
        reuse.reuse(
            str(workdir),
            teachers,
            np.arange(4),
            panel.RecoverOptions(dead_leaves=11, images_per_teacher=6),
        )
    with pytest.raises(InputError, match="images_per_class=1, fewer than"):
        reuse.reuse(
            str(workdir), teachers, np.arange(4), panel.RecoverOptions(dead_leaves=10)
        )


def test_columns_and_converted_zoos_are_named(unequal):
    with pytest.raises(InputError, match="a class named 'score' would be mistaken"):
        predictions.check_classes(("oak", "score"))
    predictions.check_classes(("oak", "scores"))
    with pytest.raises(InputError, match="is a converted zoo already"):
        hub.survey(unequal)


def test_what_only_real_images_could_measure_is_refused_without_them(unequal, tmp_path):
    def refused(config, *extra):
        argv = ["run.py", f"--config=experiments/configs/{config}", *extra]
        argv += [f"--config.zoo.path={unequal}"]
        train.main(command_line.parse(argv).config, str(tmp_path / "run"))

    with pytest.raises(InputError, match="baselines are measured on real images"):
        refused("baselines_cifar_fs.py")
    with pytest.raises(InputError, match="episodes are of the meta-model's own size"):
        refused("preinverted_cifar_fs.py", "--config.recover.image_size=64")
    assert not (tmp_path / "run").exists()
    # What chose the model may not change, or the table would say what is not so.
    for select, free in (("last", True), ("val", False)):
        argv = ["run.py", "--config=experiments/configs/panel.py"]
        argv += [f"--config.zoo.path={unequal}", f"--config.eval.select={select}"]
        settings = checks.validate(command_line.parse(argv).config)
        assert ("data.path" in identity.may_change(settings)) == free
