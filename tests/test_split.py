"""Heads and teachers split over an axis of a mesh, against one device."""

import dataclasses
import functools
import json
import re

import jax
import numpy as np
import pytest
import toy

from experiments import run
from experiments.harness import stopping
from free_jax import make_mesh, panel
from free_jax import zoo as zoo_lib
from free_jax.panel import split_heads
from free_jax.panel.described import Described
from free_jax.panel.distill_options import DistillOptions
from free_jax.panel.embed import embed_parts, embedder
from free_jax.split import Split, in_parts

# The types that are sent, and how.
COLLECTIVE = (
    r" = (\(.*?\)|\S+) "
    r"(all-gather|all-to-all|collective-permute|reduce-scatter|all-reduce)\("
)
# What is read here is there before the machine code is optimised.
FAST = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
}
UNEQUAL = np.asarray([0, 2, 7, 10, 11, 15], np.int32)  # Five teachers.
EQUAL = panel.equal_columns(5, 3)
# Fifteen outputs of six classes, in both panels; no teacher has a class twice.
CLASSES = np.asarray([0, 1, 5, 3, 2, 1, 0, 1, 4, 2, 2, 0, 3, 5, 1])
IMAGES = 12
needs_four = pytest.mark.skipif(len(jax.devices()) < 4, reason="needs 4 (fake) devices")


def split_of(task, zoo):
    mesh = make_mesh({"task": task, "zoo": zoo}, jax.devices()[: task * zoo])
    return Split(mesh)


def described(columns):
    rng = np.random.default_rng(0)
    return Described(
        rng.integers(0, 256, (IMAGES, *toy.SHAPE)).astype(np.uint8),
        3 * rng.normal(size=(IMAGES, columns[-1])).astype(np.float32),
        columns,
        np.asarray([1.0, 0.5, 0.0, 2.0, 1.0], np.float32),
        recovered=np.ones(IMAGES, bool),
        natural=np.ones(IMAGES, bool),
    )


def algorithm(columns, split=None, **kwargs):
    student = dataclasses.replace(toy.TINY, num_classes=int(columns[-1]))
    # Not Adam: it makes much of the rounding in gradients that are zero.
    momentum = {"name": "sgd", "kwargs": {"learning_rate": 0.1, "momentum": 0.9}}
    options = {"batch_size": 8, "ghost_batches": 2, "optimizer": momentum} | kwargs
    options = DistillOptions()._replace(**options)
    return panel.distillation(
        student, columns, options, 3, class_ids=CLASSES, split=split
    )


def begun(columns, **kwargs):
    """A state as after some training: drawn with NumPy, `init` is slow to compile."""
    made = algorithm(columns, **kwargs)
    drawn = toy.random_like(jax.eval_shape(made.init, jax.random.key(0)))
    return jax.tree.map(lambda x: 0.3 * x if x.dtype == np.float32 else 0 * x, drawn)


def trained(made, columns, split=None, **kwargs):
    """The state after three steps, fed as a run is, what they told, the program."""
    data, infos, program = described(columns), [], None
    state = begun(columns, **kwargs)
    if split is not None:
        (parts,) = made.model.args
        state = jax.jit(functools.partial(split_heads.divided, parts))(state)
    for number in range(3):
        key = jax.random.key(number)
        batch = made.feed(key, number, data)
        if program is None:
            lowered = jax.jit(made.step).lower(key, state, batch)
            program = lowered.compile(compiler_options=FAST)
        state, info = program(key, state, batch)
        infos.append(info)
    return state, infos, program


@functools.cache
def alone(equal, **kwargs):
    columns = EQUAL if equal else UNEQUAL
    made = algorithm(columns, **kwargs)
    state, infos, _ = trained(made, columns, **kwargs)
    return jax.device_get((made.model(state), infos))


@needs_four
@pytest.mark.parametrize(
    ("task", "zoo", "equal", "mix"),
    [
        (2, 2, False, "none"),
        (1, 4, True, "mixup"),
        pytest.param(1, 4, False, "none", marks=pytest.mark.slow),
        pytest.param(2, 2, True, "mixup", marks=pytest.mark.slow),
    ],
)
def test_split_heads_are_trained_as_on_one_device(task, zoo, equal, mix):
    columns = EQUAL if equal else UNEQUAL
    split = split_of(task, zoo)
    made = algorithm(columns, split, mix=mix)
    state, infos, program = trained(made, columns, split)
    found = jax.device_get((made.model(state), infos))
    toy.assert_close(found, alone(equal, mix=mix), rtol=1e-5, atol=1e-5)
    # The trunk's gradient with all else that is summed, along each axis; of the heads'
    # gradients each device's own, where another one has other images.
    sent = re.findall(COLLECTIVE, program.as_text())
    assert [name for _, name in sent] == ["all-reduce"] * (1 if task == 1 else 2)
    trunk = "f32[3,3,4,4]"
    assert all(trunk in types for types, _ in sent)
    assert sum("f32[64," in types for types, _ in sent) == (task > 1)
    # Heads, what their optimiser keeps and their answers are in parts on the devices.
    batch = made.feed(jax.random.key(0), 0, described(columns))
    momentum = state.opt[0][0].trace["head"]
    for leaf in jax.tree.leaves(
        (state.variables["params"]["head"], momentum, batch.logits)
    ):
        assert leaf.addressable_shards[0].data.nbytes * zoo == leaf.nbytes


@needs_four
@pytest.mark.parametrize(
    ("task", "zoo", "equal"),
    [(2, 2, False), pytest.param(1, 4, True, marks=pytest.mark.slow)],
)
def test_an_output_a_class_is_trained_by_teachers_in_parts(task, zoo, equal):
    columns = EQUAL if equal else UNEQUAL
    split = split_of(task, zoo)
    made = algorithm(columns, split, heads="class")
    state, infos, program = trained(made, columns, split, heads="class")
    found = jax.device_get((made.model(state), infos))
    wanted = alone(equal, heads="class")
    toy.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    head = state.variables["params"]["head"]
    assert head["bias"].shape == (6,) and found[0]["params"]["head"]["bias"].size == 15
    # The head is everywhere, and its gradient is summed with the trunk's.
    sent = re.findall(COLLECTIVE, program.as_text())
    assert [name for _, name in sent] == ["all-reduce"] * (1 if task == 1 else 2)
    assert all("f32[64,6]" in types for types, _ in sent)
    answers = made.feed(jax.random.key(0), 0, described(columns)).logits
    assert answers.addressable_shards[0].data.nbytes * zoo == answers.nbytes


@needs_four
@pytest.mark.parametrize(("task", "zoo"), [(2, 2), (1, 4)])
def test_split_teachers_answer_as_on_one_device(task, zoo):
    """Five of one network and three of another, in parts that do not divide them."""
    split = split_of(task, zoo)
    wider = dataclasses.replace(toy.tiny(width=5), num_classes=4)
    teachers = toy.random_teachers(toy.TINY, 5), toy.random_teachers(wider, 3)
    groups = [
        zoo_lib.ZooGroup(network, stack, np.ones(len(stack.class_ids)))
        for network, stack in zip((toy.TINY, wider), teachers, strict=True)
    ]
    names = tuple(map(str, range(toy.CLASSES)))
    everyone = zoo_lib.Zoo(tuple(groups), names)
    images = described(EQUAL).images
    # The last chunk, and the last batch of each, are padded.
    asked = panel.ask_zoo(everyone, images, chunk=9, at_once=5, split=split)
    wanted = panel.ask_zoo(everyone, images, chunk=9, at_once=5)
    np.testing.assert_allclose(asked.logits, wanted.logits, rtol=1e-5, atol=1e-5)

    stacks = split.put(in_parts(teachers[0], zoo))
    for leaf in jax.tree.leaves(stacks):
        assert leaf.addressable_shards[0].data.nbytes * zoo == leaf.nbytes
    one = embedder((toy.TINY,), output="logits", map_tasks=split.map_tasks)
    lowered = jax.jit(embed_parts(one, split)).lower(stacks, images[:5])
    sent = re.findall(COLLECTIVE, lowered.compile(compiler_options=FAST).as_text())
    # Devices of one part tell each other what its teachers say; parts do not.
    size = -(-5 // zoo)
    assert [name for _, name in sent] == ["all-reduce"] * (task > 1)
    assert all(f"f32[{size + size % task},5,3]" in types for types, _ in sent)


@needs_four
@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("there are 3 teachers; make it at most as long", {}),
        ("similarity compares all teachers' answers; set it to 0", {"similarity": 1.0}),
        ("some teachers were asked about each image; ask all", {"some": True}),
    ],
)
def test_what_cannot_be_split_is_refused(message, change):
    columns = panel.equal_columns(4 if change else 3, 3)
    student = dataclasses.replace(toy.TINY, num_classes=int(columns[-1]))
    some = change.pop("some", False)
    options = DistillOptions()._replace(**change)
    ids = np.zeros(columns[-1], int)
    with pytest.raises(ValueError, match=message):
        panel.distillation(
            student, columns, options, 3, class_ids=ids, some=some, split=split_of(1, 4)
        )


FREE = "free_cifar_fs_5w1s.py:smoke"
TEACHERS = "pretrain_cifar_fs_conv4.py:smoke"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("panel.py", "mesh {'task': 1, 'zoo': 3} does not fit 8 devices"),
        (FREE, "free has no heads to split (only panel has); leave it at 1"),
        (TEACHERS, "training teachers has no heads to split; leave it at 1"),
    ],
)
@pytest.mark.skipif(len(jax.devices()) != 8, reason="needs 8 (fake) devices")
def test_a_mesh_that_does_not_fit_is_one_clear_line(config, message, tmp_path, capsys):
    argv = ["run.py", f"--config=experiments/configs/{config}", "--distributed=off"]
    argv += ["--config.mesh.zoo=3", f"--workdir={tmp_path}", "--compilation_cache=off"]
    assert run.main(argv) == 2
    error = capsys.readouterr().err
    assert "config.mesh.zoo=3: " in error and message in error
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.skipif(len(jax.devices()) != 8, reason="needs 8 (fake) devices")
def test_a_split_run_that_stops_goes_on_as_one_device_would(
    smoke_run, tmp_path, monkeypatch, capsys
):
    def argv(name, *extra):
        return [
            "run.py",
            "--config=experiments/configs/panel_cifar_fs.py:smoke",
            f"--workdir={tmp_path / name}",
            "--config.zoo.pretrain.num_teachers=0",
            f"--config.zoo.path={smoke_run('teachers') / 'zoo'}",
            "--config.student.kwargs.width=4",
            "--config.distill.ghost_batches=4",
            # Not Adam: it makes much of the rounding in gradients that are zero.
            "--config.distill.optimizer=sgd(learning_rate=0.05, momentum=0.9)",
            "--config.eval.episodes=2",
            "--config.eval.val_episodes=2",
            "--config.eval.baselines=()",
            "--config.eval.shots=(1,)",
            "--config.log.every_steps=1",
            "--distributed=off",
            *extra,
        ]

    split = ["--config.mesh.task=4", "--config.mesh.zoo=2"]
    with monkeypatch.context() as patch:
        patch.setattr(stopping.StopRequest, "reached", lambda self, step: step == 2)
        assert run.main(argv("split", *split)) == 0
    assert run.main(argv("split")) == 2  # The state has other parts.
    assert "mesh.zoo" in capsys.readouterr().err
    assert run.main(argv("split", *split)) == 0
    images = f"--config.recover.reuse={tmp_path / 'split'}"
    assert run.main(argv("alone", images)) == 0
    for name in ("split", "alone"):
        assert (tmp_path / name / "model.npz").exists()
    rows = [
        [json.loads(line) for line in open(tmp_path / name / "metrics.jsonl")]
        for name in ("split", "alone")
    ]
    assert len(rows[0]) == len(rows[1]) > 2
    for mine, wanted in zip(*rows, strict=True):
        for key in ("distill_loss", "agreement"):
            np.testing.assert_allclose(mine[key], wanted[key], rtol=1e-3, atol=1e-5)
