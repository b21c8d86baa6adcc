"""Images renewed where a distilled model and its teachers disagree."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from experiments import run, train
from experiments.harness import chunks, loop, stopping
from experiments.inputs import command_line
from experiments.methods import base, checks
from experiments.stages import adversarial_rounds, reuse
from free_jax import (
    Teachers,
    Zoo,
    ZooGroup,
    inversion,
    load_model,
    make_network,
    objectives,
    panel,
    save_model,
    save_zoo,
)

KEY = jax.random.key(0)
ARGV = [
    "run.py",
    "--config=experiments/configs/panel_cifar_fs.py:smoke",
    "--config.student.kwargs.width=4",
    "--config.recover.images_per_class=2",
    "--config.recover.num_steps=3",
    "--config.recover.scenes=4",
    "--config.eval.episodes=2",
    "--config.eval.queries=3",
    "--config.eval.shots=(1,)",
    "--config.eval.val_episodes=0",
    "--config.eval.yardsticks=()",
    "--config.num_steps=2",
    "--config.panel.trust=False",
    "--config.zoo.pretrain.num_teachers=0",
]


def zoo_of(*groups):
    """Random teachers, in groups of (count, width), no class known to two of them."""
    found, first = [], 0
    for count, width in groups:
        arch = make_network(
            "conv4", num_classes=5, image_shape=(32, 32, 3), width=width
        )
        teachers = toy.random_teachers(arch, count, seed=width)
        ids = first + jnp.arange(5 * count, dtype=jnp.int32).reshape(count, 5)
        teachers = Teachers(teachers.variables, ids)
        found.append(ZooGroup(arch, teachers, np.full(count, np.nan), "procedural"))
        first += 5 * count
    return Zoo(tuple(found), tuple(f"class {i}" for i in range(15)))


@pytest.fixture(scope="module")
def zoo():
    return zoo_of((3, 4))


@pytest.fixture(scope="module")
def zoo_path(zoo, tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo") / "zoo"
    save_zoo(zoo, folder)
    return folder


def config_of(zoo_path, *extra):
    return command_line.parse([*ARGV, f"--config.zoo.path={zoo_path}", *extra]).config


def wanted(config):
    """The images that a config asks for."""
    found = checks.validate(config)
    return base.images_wanted(found.recover, found.common)


@pytest.fixture(scope="module")
def earlier(zoo_path, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("earlier")
    yield workdir, train.main(config_of(zoo_path), str(workdir))


def test_an_adversary_with_statistics_is_the_model_that_users_have(zoo):
    arch = zoo.groups[0].network
    teacher = jax.tree.map(lambda x: x[0], zoo.teachers[0])
    # Near the teacher: where the two choose different classes nothing is asked.
    variables = jax.tree.map(
        lambda x: 0.9 * x[0] + 0.1 * x[1], zoo.teachers[0]
    ).variables
    images = jax.random.uniform(jax.random.key(0), (8, 32, 32, 3))
    labels = jnp.arange(8) % 5
    only = inversion.Objective(
        cross_entropy=0.0, moments=0.0, adversarial=3.0, crop_padding=0, flip=False
    )
    objective_gradient = jax.jit(inversion.white_box(only, arch, arch))
    adversary = inversion.Adversary(variables["params"], 0.5, variables["batch_stats"])
    loss, _, gradient = objective_gradient(
        jax.random.key(1), images, labels, teacher, adversary
    )

    def by_hand(images):
        student = arch.apply(variables, images)
        said = arch.apply(teacher.variables, images)
        return 1.5 * objectives.agreement(student, said, "kl")

    wanted, slope = jax.jit(jax.value_and_grad(by_hand))(images)
    assert abs(wanted) > 1e-6
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-6)
    by_batch = objective_gradient(
        jax.random.key(1), images, labels, teacher, adversary._replace(stats=None)
    )[0]
    assert not np.isclose(by_batch, wanted)


@pytest.mark.slow
def test_an_earlier_student_answers_as_the_head_of_its_teacher(zoo, zoo_path, earlier):
    config = config_of(zoo_path, f"--config.recover.renew={earlier[0]}")
    student = adversarial_rounds.earlier_student(config.recover.against, zoo)
    model, variables, _ = load_model(earlier[0] / "model.npz")
    images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
    together = jax.jit(model.apply)(variables, images).reshape(2, 3, 5)
    index = np.asarray([2, 0])
    stack = student.of_teachers(index)
    np.testing.assert_array_equal(stack.weight, student.weights[index])
    apply = jax.jit(student.network.apply)
    for row, teacher in enumerate(index):
        one = jax.tree.map(lambda x, row=row: jnp.asarray(x[row]), stack)
        alone = apply({"params": one.params, "batch_stats": one.stats}, images)
        np.testing.assert_allclose(alone, together[:, teacher], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_each_teacher_has_its_own_head_of_the_student(zoo_path, tmp_path):
    """Only the teacher whose head was trusted pushes its images elsewhere."""
    zoo = zoo_of((2, 4), (1, 6))
    arch = zoo.groups[1].network
    teacher = jax.tree.map(lambda x: x[0], zoo.teachers[1].variables)
    drawn = jax.jit(arch.init)(KEY)
    near = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, teacher, drawn)
    params = dict(near["params"])
    head = params.pop("head")
    heads = jax.tree.map(lambda x: np.stack([np.zeros_like(x)] * 2 + [x]), head)
    strong = "--config.recover.objective.adversarial=100.0"
    config = config_of(zoo_path, strong, "--config.recover.scenes=0")
    images = {}
    for weight in (0.0, 1.0):
        weights = np.asarray([0.0, 0.0, weight], np.float32)
        student = adversarial_rounds.EarlierStudent(
            arch, params, near["batch_stats"], heads, weights, 1
        )
        pool = panel.recover_zoo(
            KEY, zoo, wanted(config), adversaries=student.adversaries()
        )
        images[weight] = pool.images
    moved = (images[0.0] != images[1.0]).any((1, 2, 3))
    np.testing.assert_array_equal(moved, pool.owners == 2)


@pytest.mark.slow
def test_new_images_join_those_of_the_earlier_runs(
    zoo, zoo_path, earlier, tmp_path, monkeypatch
):
    prepared = []

    def prepare_only(run, method, *_):
        prepared.append(method)
        raise stopping.Stopped

    monkeypatch.setattr(loop, "train", prepare_only)

    def pool_of(name, folders, *extra):
        options = (f"--config.recover.renew={folders}", "--config.recover.scenes=0")
        train.main(config_of(zoo_path, *options, *extra), str(tmp_path / name))
        return prepared[-1].data

    first = pool_of("first", earlier[0])
    old = first.images[:34]  # 3 teachers, 5 classes, 2 images; 4 scenes
    assert len(first.images) == len(first.logits) == 64
    assert prepared[-1].meters.images_before == 60
    # The smoke run's inversions start from scenes.
    assert first.natural.all()
    stored = np.load(earlier[0] / "recovered" / "leaves-000000.npz")["images"]
    np.testing.assert_array_equal(old[30:], stored)
    new = first.images[34:]  # Drawn from other keys than the earlier images.
    assert (old[:30] != new).any((1, 2, 3)).all()

    # Of several pools each knows how it was made.
    mixed = pool_of("noise", earlier[0], "--config.recover.start=noise")
    np.testing.assert_array_equal(mixed.natural, np.arange(64) < 34)

    # A third round keeps the images and answers of both.
    for file in ("model.npz", "result.json"):
        (tmp_path / "first" / file).write_bytes((earlier[0] / file).read_bytes())
    assert reuse.lineage(tmp_path / "first") == [
        str(earlier[0]),
        str(tmp_path / "first"),
    ]
    config = config_of(zoo_path, f"--config.recover.renew={tmp_path / 'first'}")
    assert adversarial_rounds.earlier_student(config.recover.against, zoo).number == 2
    pool, found = adversarial_rounds.kept(config.recover.against, zoo, np.arange(3))
    np.testing.assert_array_equal(pool.images, first.images)
    logits = found.logits
    np.testing.assert_array_equal(logits, np.reshape(first.logits, logits.shape))
    # So does a run that uses them again, as far as it asks for them.
    config = config_of(zoo_path, "--config.recover.images_per_class=4")
    _, answers = reuse.reuse(str(tmp_path / "first"), zoo, np.arange(3), wanted(config))
    sums = [np.sort(x.sum(1)) for x in (answers.logits, logits)]
    np.testing.assert_allclose(*sums, rtol=1e-5)


@pytest.mark.slow
def test_the_time_of_the_earlier_run_counts(zoo, zoo_path, earlier, tmp_path):
    config = config_of(zoo_path, f"--config.recover.renew={earlier[0]}")
    workdir = str(tmp_path / "renewed")
    assert adversarial_rounds.seconds_before(workdir) == 0
    made = reuse.recipe(wanted(config), config.seed)
    reuse.sign(workdir, zoo, np.arange(3), made, renewed=str(earlier[0]))
    assert adversarial_rounds.seconds_before(workdir) == earlier[1]["seconds"] > 0
    # Recovery and answers of this run, by hand, and of one that uses them again.
    for stage, spent in [("recovered", 3.0), ("described", 4.0)]:
        folder = tmp_path / "renewed" / stage
        folder.mkdir(exist_ok=True)
        np.savez(folder / "part.npz", seconds=spent)
    again = config_of(zoo_path, f"--config.recover.reuse={workdir}")
    for used, place in [(config, workdir), (again, str(tmp_path / "again"))]:
        found = adversarial_rounds.seconds_before(used.recover.reuse or place)
        np.testing.assert_allclose(found, earlier[1]["seconds"] + 7)


def test_the_eleventh_group_comes_after_the_second(tmp_path):
    folder = tmp_path / "recovered"
    folder.mkdir()
    names = ["group2-00000.npz", "group10-00000.npz", "group10-00005.npz"]
    names += ["leaves-000000.npz", "leaves-000500.npz"]
    for name in reversed(names):
        (folder / name).touch()
    assert [file.name for file in chunks.finished(str(tmp_path), "recovered")] == names


@pytest.mark.slow
def test_a_run_that_cannot_be_renewed_is_one_clear_line(zoo_path, earlier, tmp_path):
    def refused(message, *extra, folder=earlier[0]):
        config = config_of(zoo_path, f"--config.recover.renew={folder}", *extra)
        with pytest.raises(run.InputError, match=message):
            train.main(config, str(tmp_path / message))

    refused("leave recover.reuse, panel.teachers", "--config.panel.teachers=2")
    refused("no image is recovered", "--config.recover.images_per_class=0")
    refused("not a model saved by free_jax", folder=tmp_path / "nowhere")
    model, variables, _ = load_model(earlier[0] / "model.npz")
    other = tmp_path / "other"
    other.mkdir()
    save_model(other / "model.npz", model, {"params": variables["params"]})
    refused("was not distilled from a panel", folder=other)
    small = dataclasses.replace(model, num_classes=10)
    save_model(other / "model.npz", small, variables)
    refused("has 10 outputs, not 5 for each of the 3 teachers", folder=other)
    save_model(other / "model.npz", model, variables)
    refused("not the result of a finished run", folder=other)
    (other / "result.json").write_text((earlier[0] / "result.json").read_text())
    refused("no recovered images and answers", folder=other)
