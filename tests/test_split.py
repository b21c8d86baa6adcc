"""Heads and teachers split over an axis of a mesh, against one device."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest
import toy

from free_jax import make_mesh, panel
from free_jax.panel import split_heads
from free_jax.panel.described import Described
from free_jax.panel.distill_options import DistillOptions
from free_jax.split import Split

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
    found = panel.distillation(
        student, columns, DistillOptions()._replace(**options), 3, split=split
    )
    return found


def begun(columns):
    """A state as after some training: drawn with NumPy, `init` is slow to compile."""
    made = algorithm(columns)
    drawn = toy.random_like(jax.eval_shape(made.init, jax.random.key(0)))
    return jax.tree.map(lambda x: 0.3 * x if x.dtype == np.float32 else 0 * x, drawn)


def trained(made, columns, split=None):
    """The state after three steps, fed as a run is, what they told, the program."""
    data, state, infos, program = described(columns), begun(columns), [], None
    if split is not None:
        (parts,) = made.model.args
        state = jax.jit(functools.partial(split_heads.divided, parts))(state)
    for number in range(3):
        key = jax.random.key(number)
        batch = made.feed(key, data)
        if program is None:
            lowered = jax.jit(made.step).lower(key, state, batch)
            program = lowered.compile(compiler_options=FAST)
        state, info = program(key, state, batch)
        infos.append(info)
    return state, infos, program


@functools.cache
def alone(equal, mix):
    columns = EQUAL if equal else UNEQUAL
    made = algorithm(columns, mix=mix)
    state, infos, _ = trained(made, columns)
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
    toy.assert_close(found, alone(equal, mix), rtol=1e-5, atol=1e-5)
    # The trunk's gradient with all else that is summed, along each axis; of the heads'
    # gradients each device's own, where another one has other images.
    sent = re.findall(COLLECTIVE, program.as_text())
    assert [name for _, name in sent] == ["all-reduce"] * (1 if task == 1 else 2)
    trunk = "f32[3,3,4,4]"
    assert all(trunk in types for types, _ in sent)
    assert sum("f32[64," in types for types, _ in sent) == (task > 1)
    # Heads, what their optimiser keeps and their answers are in parts on the devices.
    batch = made.feed(jax.random.key(0), described(columns))
    momentum = state.opt[0][0].trace["head"]
    for leaf in jax.tree.leaves(
        (state.variables["params"]["head"], momentum, batch.logits)
    ):
        assert leaf.addressable_shards[0].data.nbytes * zoo == leaf.nbytes
