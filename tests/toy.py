"""Tiny problems shared by the tests: images, teachers, and plain-loop references."""

import functools
import itertools
import unittest.mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from free_jax import augment, models, objectives
from free_jax.fewshot.banks import from_arrays
from free_jax.fewshot.learners import batch_apply
from free_jax.fewshot.replay import ReplayInfo
from free_jax.inversion import InversionInfo, Inverter, Objective
from free_jax.models.cpu.convolution import Conv
from free_jax.models.cpu.pooling import max_pool_2x2
from free_jax.types import Episode, Recovered, Teachers
from free_jax.zoo import leaf_files, pretraining
from free_jax.zoo.network import Network, make_network

WAY = 3
SHAPE = (16, 16, 3)
LATENT = 8
CLASSES = 9
ARCH = make_network("conv4", num_classes=WAY, image_shape=SHAPE, width=4)
# Another width, another image size, another head.
WIDE = make_network(
    "conv4",
    num_classes=WAY,
    image_shape=(20, 20, 3),
    width=6,
    global_pool=True,
    mean=(0.4, 0.5, 0.6),
    std=(0.3, 0.25, 0.2),
)


class TinyNet(nn.Module):
    """Two convolutions with batch norm: every ingredient, quicker to compile."""

    num_classes: int
    width: int = 4

    @nn.compact
    def __call__(self, images, *, norm, features=False):
        x = Conv(self.width, stride=2, name="conv0")(images)
        x = nn.relu(max_pool_2x2(models.BatchNorm(name="bn0")(x, norm=norm)))
        x = Conv(self.width, use_bias=True, name="conv1")(x)
        x = nn.relu(models.BatchNorm(name="bn1")(x, norm=norm))
        x = x.reshape(x.shape[0], -1)
        logits = nn.Dense(self.num_classes, name="head")(x)
        return x if features else logits


def tiny(image_shape=SHAPE, **kwargs):
    """A network outside of the registry."""
    half = (0.5,) * 3
    return Network(
        "tiny",
        WAY,
        image_shape,
        half,
        half,
        tuple(sorted(kwargs.items())),
        family=TinyNet,
    )


class LinearGenerator(models.Generator):
    """One layer, where what is drawn does not matter: quick to compile."""

    @nn.compact
    def __call__(self, latents, labels):
        x = nn.Dense(int(np.prod(self.image_shape)), name="latent")(latents)
        return nn.sigmoid(x.reshape(-1, *self.image_shape))


TINY = tiny()
GENERATOR = models.Generator(image_shape=SHAPE, width=4)
LINEAR_GENERATOR = LinearGenerator(image_shape=SHAPE)


def patterns(shape=SHAPE, classes=CLASSES):
    """One blocky pattern a class, [C, h, w, c] in [0, 1]."""
    rng = np.random.default_rng(7)
    coarse = rng.uniform(size=(classes, shape[0] // 4, shape[1] // 4, shape[2]))
    return coarse.repeat(4, axis=1).repeat(4, axis=2)


def bank(per_class=30, shape=SHAPE, classes=CLASSES, noise=0.15):
    """Noisy copies of the patterns."""
    rng = np.random.default_rng(8)
    clean = patterns(shape, classes)[:, None]
    noisy = clean + noise * rng.normal(size=(classes, per_class, *shape))
    images = (255 * noisy.clip(0, 1)).astype(np.uint8)
    return from_arrays(images, np.full(classes, per_class))


def random_teachers(arch=ARCH, count=3, *, seed=0, classes=CLASSES) -> Teachers:
    """Untrained teachers with batch-norm statistics that are not the default.

    Drawn with NumPy: `init` is slow to compile and tested elsewhere.
    """
    shapes = jax.eval_shape(arch.init, jax.random.key(0))
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((count, *x.shape), x.dtype), shapes
    )
    variables = _normal(shapes, seed, 0.4)
    variables["batch_stats"] = {
        layer: {
            "mean": np.float32(0.3) * stats["mean"],
            "var": np.float32(0.5) + np.square(stats["var"]),
        }
        for layer, stats in variables["batch_stats"].items()
    }
    variables = jax.device_put(variables)
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.permutation(classes)[: arch.num_classes] for _ in range(count)])
    return Teachers(variables, jnp.asarray(ids, jnp.int32))


def in_files(folder, data):
    """The same stacks, whose weights are read when they are asked for."""
    found = []
    for number, stack in enumerate(data):
        where = folder / str(number)
        leaf_files.write(where, stack.variables)
        shapes = jax.eval_shape(lambda tree: tree, stack.variables)
        found.append(stack._replace(variables=leaf_files.read(where, shapes)))
    return tuple(found)


@functools.cache
def trained_teachers() -> Teachers:
    """Three teachers over all nine classes, trained in a second or two."""
    images = bank(per_class=20)
    ids = jnp.arange(CLASSES, dtype=jnp.int32).reshape(3, WAY)
    optimizer = optax.adam(1e-2)
    _, epoch, _ = pretraining.teacher_trainer(
        TINY, optimizer, images_per_class=20, batch_size=20, flip=False
    )
    variables = random_teachers(TINY).variables
    opt = jax.vmap(optimizer.init)(variables["params"])

    @jax.jit
    def train(states, keys):
        def body(states, epoch_key):
            epoch_keys = jax.random.split(epoch_key, 3)
            step = jax.vmap(lambda *task: epoch(images, task))
            return step(epoch_keys, ids, states)

        return jax.lax.scan(body, states, keys)

    keys = jax.random.split(jax.random.key(3), 15)
    states, infos = train(pretraining.TeacherState(variables, opt), keys)
    assert float(infos.accuracy[-1].min()) > 0.9
    return Teachers(states.variables, ids)


def random_episode(seed=0, *, shots=3, queries=2, shape=SHAPE, way=WAY) -> Episode:
    """Noise images; enough for identities that hold for any images."""
    rng = np.random.default_rng(seed)

    def part(n):
        images = rng.uniform(size=(way * n, *shape)).astype(np.float32)
        labels = np.repeat(np.arange(way, dtype=np.int32), n)
        return jax.device_put((images, labels))

    ids = jax.device_put(np.arange(way, dtype=np.int32))
    return Episode(*part(shots), *part(queries), ids)


# Values are made with NumPy: an operator on arrays of JAX is compiled for each shape.


def double(tree):
    """The tree's floats in float64 (only within `jax.enable_x64`)."""

    def wide(x):
        if jnp.issubdtype(x.dtype, jnp.floating):
            return jax.device_put(np.asarray(x, np.float64))
        return x

    return jax.tree.map(wide, tree)


def _normal(tree, seed, scale):
    rng = np.random.default_rng(seed)

    def draw(x):
        return np.asarray(scale, x.dtype) * rng.normal(size=x.shape).astype(x.dtype)

    return jax.tree.map(draw, tree)


def random_like(tree, seed=0, scale=1.0):
    """Normal values of the same shapes and types, of deviation `scale`."""
    return jax.device_put(_normal(tree, seed, scale))


def zeros_like(tree):
    """Zeros of the same shapes and types."""
    return jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree))


@functools.partial(jax.jit, static_argnums=0, static_argnames=("norm", "features"))
def apply(network, variables, images, norm="running", features=False):
    """What a network says, as one program instead of one an operator."""
    return network.apply(variables, images, norm=norm, features=features)


def host(tree):
    """The same values as NumPy arrays, for oracles that need no compilation."""
    return jax.tree.map(np.asarray, tree)


@functools.partial(jax.jit, static_argnums=0)
def updated(optimizer, grads, state, params):
    """The parameters and the optimiser's state after one update, as one program."""
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def dot(a, b) -> float:
    """Inner product of two trees, in float64 on the host."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum(float(np.vdot(np.float64(x), np.float64(y))) for x, y in pairs)


def central_difference(fn, at, direction, step=1e-5) -> float:
    """(f(x + h d) - f(x - h d)) / 2h."""

    def moved(sign, x, d):
        return jax.device_put(np.asarray(x) + sign * step * np.asarray(d))

    def value(sign):
        return float(fn(jax.tree.map(functools.partial(moved, sign), at, direction)))

    return (value(1) - value(-1)) / (2 * step)


def assert_close(a, b, rtol=1e-4, atol=1e-5):
    """Trees of the same structure with close leaves."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        np.testing.assert_allclose(
            x, y, rtol=rtol, atol=atol, err_msg=jax.tree_util.keystr(path)
        )


def assert_equal(a, b):
    """Trees of the same structure with identical leaves."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def traced_once(fn):
    """The function, jitted; tracing it a second time fails."""
    traces = []

    @functools.wraps(fn)
    def counted(*args):
        traces.append(args)
        assert len(traces) == 1, "compiled again"
        return fn(*args)

    return jax.jit(counted)


class OncePrograms:
    """`algorithm.Programs` each of which may be traced once."""

    def __init__(self, parts, donate, jit):
        self.parts, self.compiled = parts, {}

    def __call__(self, fn, *fixed, donate=()):
        name = (fn, *fixed)
        if name not in self.compiled:
            self.compiled[name] = traced_once(functools.partial(fn, self.parts, *fixed))
        return self.compiled[name]


def compiled_once(algorithm):
    """The step as it is called; no program that it is made of may be traced twice."""
    if algorithm.dispatch is None:
        return traced_once(algorithm.step)
    with unittest.mock.patch("free_jax.algorithm.Programs", OncePrograms):
        return algorithm.compiled()


def orders(count):
    return list(itertools.permutations(range(count)))


# ---- stand-ins, quick to compile -------------------------------------------------


class LinearNet(nn.Module):
    """Batch norm of a few pixels and one layer."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, norm, features=False):
        x = models.BatchNorm(name="bn0")(images[:, ::8, ::8], norm=norm)
        x = x.reshape(x.shape[0], -1)
        logits = nn.Dense(self.num_classes, name="head")(x)
        return x if features else logits


# The cheapest network with running statistics.
LINEAR = Network("linear", WAY, SHAPE, (0.5,) * 3, (0.5,) * 3, family=LinearNet)


def quick_inverter(scale=1.0):
    """An inversion whose images, losses and gradient tell which teacher it saw."""

    def invert(key, shared, teacher, labels, adversary=None):
        level = jax.nn.sigmoid(teacher.variables["params"]["head"]["bias"].sum())
        images = level * jax.random.uniform(key, (labels.shape[0], *SHAPE))
        info = InversionInfo(
            loss=jnp.full(2, level),
            cross_entropy=jnp.full(2, 2 * level),
            teacher_accuracy=level,
            is_finite=jnp.isfinite(level),
            queries=jnp.int32(labels.shape[0]),
        )
        grads = jax.tree.map(lambda x: scale * level * x, shared)
        return Recovered(images, labels, teacher.class_ids), info, grads

    return Inverter(lambda key: {"w": jax.random.normal(key, (3,))}, invert)


def quick_gradient(scale=1.0):
    """A loss and a gradient that tell which teacher saw which images."""

    def gradient(key, images, labels, teacher, adversary):
        bias = teacher.variables["params"]["head"]["bias"].sum()
        level = scale * jax.nn.sigmoid(bias)
        return level, 2 * level, level * images + jax.random.uniform(key)

    return gradient


def no_replay(key, params, opt_state, bank):
    """Nothing is replayed: what the rest of a step does stands alone."""
    zero = jnp.zeros(())
    return params, opt_state, ReplayInfo(zero, zero, jnp.int32(0))


# ---- references ------------------------------------------------------------------


def inversion_loss(
    fast,
    key,
    variables,
    labels,
    student_params=None,
    *,
    network=ARCH,
    generator=GENERATOR,
    objective=Objective(),
    student=None,
):
    """The whole inversion loss of one step, written once more; (loss, images)."""
    images = generator.apply({"params": fast["generator"]}, fast["latents"], labels)
    views = augment.crop_flip(
        key,
        images,
        padding=objective.crop_padding,
        per_image=objective.augment_per_image,
    )
    logits, moments = network.apply_with_moments(
        variables, augment.fit_to(views, network.image_shape)
    )
    log_p = jax.nn.log_softmax(logits)
    ce = -jnp.take_along_axis(log_p, labels[:, None], axis=1).mean()
    loss = objective.cross_entropy * ce
    for layer, found in moments.items():
        wanted = variables["batch_stats"][layer]
        for name in ("mean", "var"):
            loss += objective.moments * jnp.linalg.norm(found[name] - wanted[name])
    loss += objective.total_variation * objectives.total_variation(views)
    if student is not None and student_params is not None:
        said = batch_apply(
            student, student_params, augment.fit_to(views, student.image_shape)
        )
        if not objective.student_gradient:
            said = jax.lax.stop_gradient(said)
        p, log_q = jax.nn.softmax(logits), jax.nn.log_softmax(said)
        rows = (p * (log_p - log_q)).sum(1)
        same = logits.argmax(1) == said.argmax(1)
        loss -= objective.adversarial * jnp.where(same, rows, 0.0).mean()
    return loss, images


class Loop:
    """What `loop_invert` leaves behind: one entry a step, before its update."""

    def __init__(self):
        self.fast, self.keys, self.losses, self.images, self.grads = [], [], [], [], []


def loop_invert(key, params, variables, labels, loss_fn, optimizer, num_steps):
    """Inversion as a Python loop over steps.  `loss_fn(fast, key)` is jitted here."""
    key_latents, key_steps = jax.random.split(key)
    latents = jax.random.normal(key_latents, (labels.shape[0], LATENT))
    fast = {"generator": params, "latents": latents}
    opt_state = optimizer.init(fast)
    loop = Loop()
    for step_key in jax.random.split(key_steps, num_steps):
        (loss, images), grads = loss_fn(fast, step_key, variables)
        loop.fast.append(fast)
        loop.keys.append(step_key)
        loop.losses.append(float(loss))
        loop.images.append(images)
        loop.grads.append(grads["generator"])
        updates, opt_state = optimizer.update(grads, opt_state, fast)
        fast = optax.apply_updates(fast, updates)
    return loop
