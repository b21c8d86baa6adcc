"""The pieces of work that `against_torch.py` compares, each in both libraries.

Images and weights are random: time does not depend on what they show.  Both sides
start from the same weights; `tests/test_benchmarks.py` shows that they then compute the
same losses.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

import free_jax as fj
from benchmarks.torch_baseline import episodes as torch_episodes
from benchmarks.torch_baseline import free as torch_free
from benchmarks.torch_baseline import inversion as torch_inversion
from benchmarks.torch_baseline import networks as torch_networks
from benchmarks.torch_baseline import training as torch_training
from free_jax import interop, panel
from free_jax.algorithms import free
from free_jax.algorithms.bell import AlignOptions
from free_jax.algorithms.free import FreeOptions
from free_jax.fewshot import banks, evaluation, replay
from free_jax.interop.layout import classifier_layout
from free_jax.models import Generator
from free_jax.types import Answers, SyntheticImages
from free_jax.zoo import pretraining
from free_jax.zoo.network import Network

WAY, SIZE, LATENT, INNER_STEPS, TEST_STEPS = 5, 32, 256, 5, 10
TEMPERATURE = 2.0
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
# What FREE's released code asks of recovered images.
RELEASED = fj.Objective(
    moments=0.0,
    agreement="prob_dot",
    student_gradient=False,
    augment_per_image=False,
)


class Case(NamedTuple):
    """One piece of work.

    Attributes:
      ours: does it once and waits for the result.
      eager: the same in eager PyTorch.
      compiled: the same under `torch.compile`, or None where that cannot be.
      units: how many inner steps, episodes, batches or steps one call holds.
      unit: their name.
      before: seconds that went into making it, by name.
      plain: ours as it would be without the form that the case is about, or None.
    """

    ours: Callable[[], Any]
    eager: Callable[[], Any]
    compiled: Callable[[], Any] | None
    units: int
    unit: str
    before: Mapping[str, float] = {}
    plain: Callable[[], Any] | None = None


def classifier(name: str, size: int = SIZE, **kwargs) -> Network:
    wanted: dict[str, Any] = {"num_classes": WAY, "image_shape": (size, size, 3)}
    return fj.make_network(name, mean=MEAN, std=STD, **wanted | kwargs)


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Images [n, c, h, w] in [0, 1] to what the networks are given."""
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
    return (images - mean) / std


def to_torch(images) -> torch.Tensor:
    """[..., h, w, c] to [..., c, h, w]."""
    return torch.tensor(np.moveaxis(np.asarray(images), -1, -3).copy())


def torch_classifier(network: Network, variables) -> torch_networks.State:
    state = interop.to_state_dict(jax.device_get(variables), network)
    # Without the second copies that Conv4's own module has.
    state = {key: state[key] for key in classifier_layout(network).keys.values()}
    return torch_networks.tensors(state)


def torch_generator(generator: Generator, params) -> torch_networks.State:
    state = interop.generator_to_state_dict({"params": params}, generator)
    return {
        k: v for k, v in torch_networks.tensors(state).items() if "running" not in k
    }


def inversion(
    name: str,
    *,
    size: int = SIZE,
    width: int = 64,
    images_per_class: int = 20,
    steps: int = INNER_STEPS,
) -> Case:
    """FIVE's inner loop for one teacher."""
    flax_network = classifier(name, size)
    generator = Generator((size, size, 3), width)
    labels = fj.balanced_labels(WAY, images_per_class)
    inverter = fj.meta_generator(
        generator,
        flax_network,
        inner_optimizer=optax.adam(1e-3, b1=0.5),
        objective=RELEASED,
        num_steps=steps,
        latent_dim=LATENT,
    )
    teacher = fj.Teachers(flax_network.init(jax.random.key(0)), jnp.arange(WAY))
    params = inverter.init(jax.random.key(1))
    invert = jax.jit(inverter.invert)

    def ours():
        _, info, gradient = invert(jax.random.key(2), params, teacher, labels)
        return jax.block_until_ready((info.loss, gradient))[0]

    state = torch_classifier(flax_network, teacher.variables)
    phi = torch_generator(generator, params)
    latents = torch.randn(len(labels), LATENT)
    targets = torch.tensor(np.asarray(labels), dtype=torch.long)
    views = [torch_inversion.View(i - 2, 1, bool(i % 2)) for i in range(steps)]
    network = torch_networks.NETWORKS[name]

    def loss(fast, z, view):
        return torch_inversion.loss(fast, z, state, network, targets, view, normalize)

    def eager():
        return torch_inversion.invert(phi, latents, views, loss)[2]

    # One program a view: with symbolic shapes the compiler of torch 2.13 fails here.
    fast_loss = torch.compile(loss, dynamic=False)

    def compiled():
        return torch_inversion.invert(phi, latents, views, fast_loss)[2]

    return Case(ours, eager, compiled, steps, "inner step")


def _bank(classes: int = 8, per_class: int = 30, size: int = SIZE) -> fj.ImageBank:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (classes, per_class, size, size, 3), np.uint8)
    return banks.from_arrays(images, np.full(classes, per_class))


def torch_episode(episode: fj.Episode) -> torch_episodes.Episode:
    def part(images, labels):
        labels = torch.tensor(np.asarray(labels), dtype=torch.long)
        return normalize(to_torch(images)), labels

    return torch_episodes.Episode(
        *part(episode.support_images, episode.support_labels),
        *part(episode.query_images, episode.query_labels),
    )


def _torch_episodes(bank, shots: int, queries: int, count: int):
    return [
        torch_episode(
            fj.sample_episode(key, bank, way=WAY, shots=shots, queries=queries)
        )
        for key in jax.random.split(jax.random.key(3), count)
    ]


def _torch_student(student: Network, params) -> torch_networks.State:
    state = torch_classifier(student, {"params": params})
    return {
        name: state[name].requires_grad_() for name in torch_networks.weights(state)
    }


def maml(
    shots: int,
    *,
    map_tasks: Callable,
    episodes: int = 10,
    queries: int = 15,
    size: int = SIZE,
) -> Case:
    """One second-order MAML update of several episodes."""
    student = classifier("conv4", size)
    learner = fj.maml(student, num_steps=INNER_STEPS)
    optimizer = optax.adam(1e-3)
    bank = _bank(size=size)
    update = jax.jit(
        replay.episodic_update(
            learner,
            optimizer,
            way=WAY,
            shots=shots,
            queries=queries,
            episodes_per_update=episodes,
            map_tasks=map_tasks,
        )
    )
    params = learner.init(jax.random.key(0))
    opt_state = optimizer.init(params)

    def ours():
        result = update(jax.random.key(3), params, opt_state, bank)
        return jax.block_until_ready(result)[2].loss

    weights = _torch_student(student, params)
    torch_optimizer = torch.optim.Adam(list(weights.values()), 1e-3)
    tasks = _torch_episodes(bank, shots, queries, episodes)

    def eager():
        return torch_episodes.update(weights, torch_optimizer, tasks, INNER_STEPS)

    # torch.compile does not trace a gradient within the graph.
    return Case(ours, eager, None, episodes, "episode")


def evaluate(
    shots: int,
    *,
    map_tasks: Callable,
    episodes: int = 20,
    queries: int = 15,
    size: int = SIZE,
) -> Case:
    """Adaptation and transductive accuracy of several episodes."""
    student = classifier("conv4", size)
    learner = fj.maml(student, num_steps=TEST_STEPS)
    params = learner.init(jax.random.key(0))
    bank = _bank(size=size)

    def classify(params, episode):
        adapted = learner.adapt(params, episode.support_images, episode.support_labels)
        return {"transductive": learner.predict(adapted, episode.query_images)}

    run = evaluation.evaluator(
        classify,
        way=WAY,
        shots=shots,
        queries=queries,
        num_episodes=episodes,
        map_tasks=map_tasks,
    )

    def ours():
        return run(jax.random.key(3), params, bank)["transductive"].per_episode

    weights = _torch_student(student, params)
    tasks = _torch_episodes(bank, shots, queries, episodes)
    network = torch.compile(torch_networks.conv4, dynamic=False)

    def eager():
        return torch_episodes.evaluate(weights, tasks, TEST_STEPS)

    def compiled():
        return torch_episodes.evaluate(weights, tasks, TEST_STEPS, network)

    return Case(ours, eager, compiled, episodes, "episode")


def train(
    *,
    map_tasks: Callable,
    teachers: int = 2,
    batches: int = 4,
    batch_size: int = 128,
    size: int = SIZE,
) -> Case:
    """Part of an epoch of Conv4 teachers."""
    flax_network = classifier("conv4", size)
    per_class = -(-batches * batch_size // WAY)
    bank = _bank(classes=WAY, per_class=per_class, size=size)
    init, epoch, _ = pretraining.teacher_trainer(
        flax_network,
        optax.chain(optax.clip_by_global_norm(50.0), optax.adam(0.01)),
        images_per_class=per_class,
        batch_size=batch_size,
    )
    keys = jax.random.split(jax.random.key(0), teachers)
    states = jax.vmap(init)(keys)
    ids = jnp.broadcast_to(jnp.arange(WAY), (teachers, WAY))
    run = jax.jit(map_tasks(epoch))

    def ours():
        return jax.block_until_ready(run(bank, (keys, ids, states)))[1].loss

    images = torch.tensor(np.asarray(bank.images)).flatten(0, 1).movedim(-1, 1)
    shape = (batches, batch_size)
    order = torch.randperm(len(images))[: batches * batch_size].view(shape)
    labels = order // per_class
    flips = torch.rand(shape) < 0.5
    first = jax.tree.map(lambda x: x[0], states.variables)
    start = torch_classifier(flax_network, first)
    training = torch.compile(torch_training.conv4_training)

    def loop(network):
        for _ in range(teachers):
            state = {name: value.clone() for name, value in start.items()}
            losses = torch_training.epoch(
                state, images[order], labels, flips, normalize, network
            )
        return losses

    return Case(
        ours,
        lambda: loop(torch_training.conv4_training),
        lambda: loop(training),
        teachers * batches,
        "batch",
    )


def describe(
    *, map_tasks: Callable, teachers: int = 4, images: int = 250, size: int = SIZE
) -> Case:
    """What several Conv4 teachers say about some images."""
    flax_network = classifier("conv4", size)
    variables = jax.vmap(flax_network.init)(
        jax.random.split(jax.random.key(0), teachers)
    )
    pixels = _bank(1, images, size).images[0]

    def ask(pixels, variables):
        return flax_network.apply(variables, pixels / jnp.float32(255), norm="running")

    run = jax.jit(lambda variables: map_tasks(ask)(pixels, variables))
    pool = [
        torch_classifier(flax_network, jax.tree.map(lambda x, i=i: x[i], variables))
        for i in range(teachers)
    ]
    seen = normalize(to_torch(pixels) / 255)

    def eager(network=torch_networks.conv4):
        with torch.no_grad():
            return torch.stack([network(state, seen, True) for state in pool])

    fast = torch.compile(torch_networks.conv4, dynamic=False)
    return Case(
        lambda: jax.block_until_ready(run(variables)),
        eager,
        lambda: eager(fast),
        teachers * images,
        "image",
    )


def distil(
    *, teachers: int = 40, batches: int = 4, batch_size: int = 64, size: int = SIZE
) -> Case:
    """Steps of the panel's distillation: one student, a head a teacher."""
    rng = np.random.default_rng(0)
    images, outputs = 4 * batch_size, WAY * teachers
    pixels = _bank(1, images, size).images[0]
    answers = rng.normal(size=(images, outputs)).astype(np.float32)
    columns = WAY * np.arange(teachers + 1)
    student = classifier("conv4", size, num_classes=outputs, width=32)
    algorithm = panel.panel_distillation(
        student,
        columns=columns,
        optimizer=optax.adam(1e-3),
        batch_size=batch_size,
        temperature=TEMPERATURE,
        crop_padding=0,
    )
    nobody = np.full(images, -1, np.int32)
    shown = SyntheticImages(np.asarray(pixels), nobody, nobody, nobody < 0)
    data = panel.on_device(panel.to_described(shown, Answers(answers, columns)))
    state = jax.jit(algorithm.init)(jax.random.key(0))
    step = jax.jit(algorithm.step)

    def ours():
        latest = state
        for number in range(batches):
            key = jax.random.fold_in(jax.random.key(1), number)
            latest, info = step(key, latest, data)
        return jax.block_until_ready((latest, info))[1].distill_loss

    start = torch_classifier(student, state.variables)
    targets = torch.tensor(answers).view(images, teachers, WAY)
    seen = to_torch(pixels)
    draw = torch.Generator().manual_seed(0)

    def loop(network):
        weights = {name: value.clone() for name, value in start.items()}
        names = torch_networks.weights(weights)
        for name in names:
            weights[name].requires_grad_()
        optimizer = torch.optim.Adam([weights[name] for name in names], 1e-3)
        for _ in range(batches):
            rows = torch.randint(images, (batch_size,), generator=draw)
            flips = torch.rand(batch_size, generator=draw) < 0.5
            batch = seen[rows] / 255
            batch = torch.where(flips.view(-1, 1, 1, 1), batch.flip(-1), batch)
            loss = torch_training.distillation_step(
                weights,
                optimizer,
                normalize(batch),
                targets[rows],
                TEMPERATURE,
                network,
            )
        return loss

    fast = torch.compile(torch_training.conv4_training)
    return Case(
        ours,
        lambda: loop(torch_training.conv4_training),
        lambda: loop(fast),
        batches,
        "batch",
    )


def free_step(
    *,
    map_tasks: Callable,
    teachers: int = 4,
    width: int = 64,
    images_per_class: int = 20,
    updates: int = 1,
    episodes: int = 10,
) -> Case:
    """One step of FREE after its warm-up, with a fixed number of replay updates."""
    student, generator = classifier("conv4"), Generator((SIZE, SIZE, 3), width)
    learner = fj.maml(student, num_steps=INNER_STEPS)
    optimizer = optax.adam(1e-3)
    inverter = fj.meta_generator(
        generator,
        student,
        inner_optimizer=optax.adam(1e-3, b1=0.5),
        objective=RELEASED,
        student=student,
        num_steps=INNER_STEPS,
        latent_dim=LATENT,
    )
    update = replay.episodic_update(
        learner,
        optimizer,
        way=WAY,
        shots=1,
        queries=15,
        episodes_per_update=episodes,
        map_tasks=map_tasks,
    )
    algorithm = free(
        (inverter,),
        (student,),
        learner,
        student,
        replay.replay(update, patience=updates, max_updates=updates),
        optimizer,
        num_classes=WAY,
        options=FreeOptions(
            teachers_per_step=teachers,
            images_per_class=images_per_class,
            warmup_steps=0,
            outer_state="fresh",
        ),
        align=AlignOptions(distill="prob_dot"),
        augment_per_image=False,
        map_tasks=map_tasks,
    )
    state = jax.jit(algorithm.init)(jax.random.key(0))
    variables = jax.vmap(student.init)(jax.random.split(jax.random.key(1), teachers))
    ids = jnp.broadcast_to(jnp.arange(WAY, dtype=jnp.int32), (teachers, WAY))
    pool = (fj.Teachers(variables, ids),)
    run = jax.jit(algorithm.step)

    def ours():
        return jax.block_until_ready(run(jax.random.key(2), state, pool))[1]

    labels = fj.balanced_labels(WAY, images_per_class)
    targets = torch.tensor(np.asarray(labels), dtype=torch.long)
    views = [torch_inversion.View(i - 2, 1, bool(i % 2)) for i in range(INNER_STEPS)]
    phi = torch_generator(generator, state.generator)
    weights = _torch_student(student, state.params)
    stack = [
        torch_classifier(student, jax.tree.map(lambda x, i=i: x[i], variables))
        for i in range(teachers)
    ]
    tasks = _torch_episodes(_bank(), 1, 15, episodes)

    def eager():
        return torch_free.step(
            phi, weights, stack, targets, views, normalize, lambda: tasks, updates
        )

    return Case(ours, eager, None, 1, "step")
