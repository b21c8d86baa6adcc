"""What can be known at the start fails there; `--check` looks at nothing else."""

import jax.numpy as jnp
import numpy as np
import pytest
import toy
from PIL import Image

import free_jax as fj
from experiments import compare, pretrain_zoo, run, train
from experiments.evaluation.options import EvalOptions
from experiments.harness import loop, metrics
from experiments.harness import workdir as workdir_lib
from experiments.inputs import command_line
from experiments.inputs.options import TeacherRecipe, ZooOptions
from experiments.methods import dry
from experiments.methods import panel as panel_method
from experiments.methods.options import Common
from experiments.stages import pretrain
from free_jax import Teachers, Zoo, ZooGroup, make_network, panel, save_zoo
from free_jax.errors import InputError

TINY = [
    "--config.student.kwargs.width=4",
    "--config.eval.queries=2",
    "--config.eval.val_episodes=0",
]


@pytest.fixture(scope="module")
def zoo_path(tmp_path_factory):
    arch = make_network("conv4", num_classes=5, image_shape=(16, 16, 3), width=4)
    teachers = toy.random_teachers(arch, 2)
    ids = jnp.arange(10, dtype=jnp.int32).reshape(2, 5)
    group = ZooGroup(arch, Teachers(teachers.variables, ids), np.full(2, np.nan), "x")
    folder = tmp_path_factory.mktemp("teachers") / "zoo"
    save_zoo(Zoo((group,), tuple(f"class {i}" for i in range(10))), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split, classes, count in (("train", 6, 6), ("val", 5, 4), ("test", 5, 4)):
        for number in range(classes):
            target = folder / split / f"class{number}"
            target.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (16, 16), (30 * number, 9 * i, 0)).save(
                    target / f"{i}.png"
                )
    return folder


@pytest.fixture
def nothing(monkeypatch):
    """Nothing that takes minutes, writes or asks may be called."""

    def never(*args, **kwargs):
        pytest.fail("minutes were spent")

    monkeypatch.setattr(panel, "describe_zoo", never)
    monkeypatch.setattr(panel, "recover_zoo", never)
    monkeypatch.setattr(pretrain._Training, "_trained", never)
    monkeypatch.setattr(loop, "train", never)


def parse(config, *extra):
    argv = ["run.py", f"--config=experiments/configs/{config}", *extra]
    return command_line.parse(argv).config


def command(config, *extra):
    return run.main(
        ["run.py", f"--config=experiments/configs/{config}", "--distributed=off"]
        + ["--compilation_cache=off", *extra]
    )


PRETRAINED = [
    "--config.data.name=image_folder",
    "--config.data.image_size=16",
    "--config.zoo.pretrain.num_teachers=2",
    "--config.zoo.pretrain.batch_size=4",
    "--config.zoo.pretrain.model.kwargs.width=4",
]


@pytest.mark.parametrize(
    ("config", "extra", "message"),
    [
        (
            "free.py",
            ["--config.replay.queries=90"],
            "config.replay needs 91 images a class",
        ),
        ("free.py", ["--config.zoo.sabotage=2.0"], "must be between 0 and 1"),
        ("free.py", ["--config.zoo.pretrain.batch_size=500"], "lower it"),
        (
            "purer.py",
            ["--config.init=average", "--config.student.kwargs.width=8"],
            "must be one architecture",
        ),
        (
            "panel.py",
            ["--config.learner.inner_lr=-1.0", "--config.eval.shots=(1,)"],
            "config.learner: ",
        ),
        (
            "panel.py",
            ["--config.distill.ghost_batches=7", "--config.eval.shots=(1,)"],
            "config.distill: ",
        ),
        (
            "panel.py",
            ["--config.zoo.choose.teachers=2", "--config.panel.held_out_teachers=2"],
            "of the 2 teachers of config.zoo.choose.teachers none would be left",
        ),
        ("panel.py", ["--config.seed=-1"], "seed=-1: must be between 0 and"),
        ("panel.py", [f"--config.seed={2**32}"], "must be between 0 and"),
        ("panel.py", ["--config.data.image_size=100000"], "between 0 and 4096"),
    ],
)
def test_teachers_are_not_trained_for_a_run_that_cannot_be(
    config, extra, message, data, tmp_path, nothing
):
    override = [*TINY, *PRETRAINED, f"--config.data.path={data}", *extra]
    for function in (train.check, train.main):
        with pytest.raises(InputError, match=message):
            function(parse(config, *override), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "zoo").exists()


def test_a_panel_is_refused_before_images_are_made(zoo_path, data, tmp_path, nothing):
    def refused(message, *extra, config="panel.py"):
        override = [*TINY, f"--config.zoo.path={zoo_path}", *extra]
        for function in (train.check, train.main):
            with pytest.raises(InputError, match=message):
                function(parse(config, *override), str(tmp_path / "run"))

    refused("config.learner: ", "--config.learner.inner_lr=-1.0")
    refused(r"config\.recover\.reuse", f"--config.recover.reuse={tmp_path}/nowhere")
    refused("no such folder", f"--config.data.path={tmp_path}/nowhere")
    refused(
        "temperature", "--config.eval.temperature=0.0", f"--config.data.path={data}"
    )
    refused(
        "not a model saved by free_jax",
        "--config.learner.init_from=nowhere.npz",
        config="free.py",
    )


def test_held_out_classes_are_enough_for_an_episode(zoo_path):
    zoo = fj.load_zoo(zoo_path)
    choice = panel.PanelChoice(np.asarray([0]), np.arange(5, 10))

    def check(images, select="pseudo"):
        common = Common(eval=EvalOptions(select=select))
        wanted = panel.RecoverOptions(images_per_class=images)
        panel_method.check_held_out(common, wanted, zoo, choice)

    check(16)
    check(15, select="last")
    with pytest.raises(InputError, match=r"select=pseudo: 5 held-out classes of 16"):
        check(15)


def test_a_package_that_is_missing_is_told_at_the_start(
    zoo_path, data, tmp_path, nothing, monkeypatch
):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    config = parse("free.py", *TINY, f"--config.zoo.path={zoo_path}")
    config.log.tensorboard = True
    with pytest.raises(InputError, match="needs tensorboardX"):
        train.main(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="needs tensorboardX"):
        metrics.check_packages(tensorboard=True)


def test_learning_from_real_images_lists_them_first(data, tmp_path, nothing):
    argv = [*TINY, "--config.zoo.pretrain.num_teachers=0"]
    argv += [f"--config.data.path={data}", "--config.replay.queries=50"]
    with pytest.raises(InputError, match=r"the train split in .* an episode needs 5"):
        train.main(parse("maml_real_cifar_fs.py", *argv), str(tmp_path / "run"))
    argv += ["--config.eval.select=pseudo", "--config.eval.val_episodes=2"]
    with pytest.raises(InputError, match="this method recovers no images"):
        train.check(parse("maml_real_cifar_fs.py", *argv), str(tmp_path / "other"))


def pool(folder, zoo_path, size):
    """What a panel run leaves: images and answers, not a result."""
    argv = [*TINY, f"--config.zoo.path={zoo_path}", "--config.num_steps=1"]
    argv += ["--config.recover.images_per_class=1", "--config.recover.dead_leaves=2"]
    argv += ["--config.recover.inversion.num_steps=1", "--config.distill.batch_size=2"]
    argv += [f"--config.recover.image_size={size}", "--config.panel.trust=False"]
    return train.main(parse("panel.py", *argv), str(folder))


@pytest.mark.slow
def test_rounds_of_another_size_are_refused_at_the_start(
    zoo_path, tmp_path, monkeypatch
):
    pool(tmp_path / "first", zoo_path, 20)
    monkeypatch.setattr(panel, "describe_zoo", lambda *a, **k: pytest.fail("too late"))
    argv = [*TINY, f"--config.zoo.path={zoo_path}"]
    argv += [f"--config.recover.against={tmp_path}/first"]
    for function in (train.check, train.main):
        with pytest.raises(InputError, match=r"have 20 pixels, those .* here 16"):
            function(parse("panel.py", *argv), str(tmp_path / "second"))
    found = train.check(
        parse("panel.py", *argv, "--config.recover.image_size=20"),
        str(tmp_path / "second"),
    )
    assert "earlier run" in dict(found)
    reused = [*TINY, f"--config.zoo.path={zoo_path}", "--config.recover.dead_leaves=2"]
    reused += [f"--config.recover.reuse={tmp_path}/first"]
    with pytest.raises(InputError, match="holds images_per_class=1, fewer than"):
        train.check(
            parse("panel.py", *reused, "--config.recover.images_per_class=2"), "unused"
        )
    more = [
        "--config.recover.images_per_class=2",
        "--config.recover.images_per_teacher=10",
    ]
    with pytest.raises(InputError, match="holds images_per_teacher=5, fewer than"):
        more[0] = "--config.recover.images_per_class=40"
        train.check(parse("panel.py", *reused, *more), "unused")


def test_check_tells_what_it_looked_at_and_writes_nothing(
    zoo_path, data, tmp_path, nothing, capsys
):
    workdir = tmp_path / "run"
    argv = [*TINY, f"--config.zoo.path={zoo_path}", f"--workdir={workdir}", "--check"]
    argv += ["--config.eval.shots=(1,)"]
    assert command("panel.py", *argv, f"--config.data.path={data}") == 0
    said = capsys.readouterr().out
    for line in (
        "panel, 5-way, seed 0",
        f"{workdir}: new",
        "5 classes, 20 images",
        "2 of 1 network (conv4), 5-way, 16 pixels",
        "recovering",
        "not tried",
    ):
        assert line in said
    assert not workdir.exists()
    assert command("panel.py", *argv, "--config.data.path=nowhere") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not workdir.exists()


def test_check_looks_at_the_working_directory(zoo_path, tmp_path, nothing):
    config = parse("free.py", *TINY, f"--config.zoo.path={zoo_path}")
    folder = tmp_path / "run"
    with workdir_lib.claim_workdir(folder, {"seed": 3}):
        (folder / "metrics.jsonl").write_text("")
        with pytest.raises(InputError, match="in use by another run"):
            train.check(config, str(folder))
    with pytest.raises(InputError, match="holds a run of another config"):
        train.check(config, str(folder))
    assert dict(train.check(config, str(tmp_path / "new")))["workdir"].endswith("new")


def test_pretraining_is_checked_by_its_listing(data, tmp_path, nothing):
    argv = ["--config.data.name=image_folder", f"--config.data.path={data}"]
    argv += ["--config.pretrain.num_teachers=2", "--config.pretrain.batch_size=4"]
    file = "pretrain_cifar_fs_conv4.py"
    found = dict(pretrain_zoo.check(parse(file, *argv), str(tmp_path / "run")))
    assert "6 classes, 36 images" in found["images, train"]
    assert "trained in this run" in found["teachers"]
    wide = parse(file, *argv, "--config.pretrain.way=7")
    for function in (pretrain_zoo.check, pretrain_zoo.main):
        with pytest.raises(InputError, match=r"way=7 exceeds the 6 training classes"):
            function(wide, str(tmp_path / "other"))
    assert not (tmp_path / "run").exists()


METHODS = {
    "good": "free.py",
    "bad": "free.py --config.replay.queries=90",
}


def comparison(zoo_path, data):
    config = parse("compare_cifar_fs.py", f"--config.zoo.path={zoo_path}")
    config.data.name, config.data.path = "", str(data)
    config.eval.shots, config.eval.queries, config.eval.episodes = (1,), 2, 2
    with config.unlocked():
        config.methods = METHODS
    config.choose, config.seeds = (), (0,)
    return config


def test_a_comparison_says_at_the_start_which_cells_will_fail(
    zoo_path, data, tmp_path, capsys, monkeypatch
):
    config = comparison(zoo_path, data)
    with pytest.raises(InputError, match=r"bad: config\.replay needs 91 images"):
        compare.check(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    config.choose = ("good",)
    found = dict(compare.check(config, str(tmp_path / "run")))
    assert "fits" in found["good"] and "20 images" in found["images, test"]
    # The run itself goes on with the others: its images need no name of a benchmark.
    config.choose = ()
    told = []

    def cell(config, workdir):
        told.append(capsys.readouterr().out)
        raise InputError("not made here")

    monkeypatch.setattr(train, "main", cell)
    compare.main(config, str(tmp_path / "run"))
    assert "bad will fail: config.replay needs 91" in told[0]
    assert "good will fail" not in told[0]
    config.data.path = ""
    with pytest.raises(InputError, match="a comparison is measured on real images"):
        compare.main(config, str(tmp_path / "other"))


def test_findings_name_what_only_the_run_tells():
    assert "sending endpoints an image" in dry.not_tried(ZooOptions(apis="apis.yaml"))
    trained = ZooOptions(pretrain=TeacherRecipe(num_teachers=1))
    assert dry.not_tried(trained).startswith("training the teachers")


def test_endpoints_are_asked_for_metadata_only(tmp_path, nothing):
    pytest.importorskip("onnxruntime")
    (tmp_path / "apis.yaml").write_text(
        "endpoints:\n  - {name: a, onnx: missing.onnx, image_size: 16, "
        "class_names: [x, y, z, v, w]}\n"
    )
    config = parse("bidf.py", *TINY, f"--config.zoo.apis={tmp_path}/apis.yaml")
    with pytest.raises(InputError):
        train.check(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["apis.yaml"]
