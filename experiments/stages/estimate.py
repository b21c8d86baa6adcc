"""What a panel will take, told before it starts: seconds of each stage, and memory."""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import metrics
from free_jax import nouns, panel
from free_jax.inversion import invertible
from free_jax.rows import in_files
from free_jax.zoo import Zoo
from free_jax.zoo.network import Network

# A gradient takes about two forward passes more.
_GRADIENT = 3
# Seconds a network, both programs: 10 for a Conv4, 15 to 60 for those of a hub.
_COMPILING = 30


class Estimate(NamedTuple):
    """Seconds of each stage, without compiling, and bytes.

    Attributes:
      recovering: images from teachers.
      asking: all teachers about all images.
      training: the model.
      memory: of the teachers, the images and the answers together.
      networks: different ones, whose programs are compiled.
    """

    recovering: float
    asking: float
    training: float
    memory: int
    networks: int


def estimate(
    zoo: Zoo,
    student: Network,
    wanted: panel.RecoverOptions,
    *,
    asked: np.ndarray,
    batch_size: int,
    num_steps: int,
    asked_per_image: int = 0,
) -> Estimate:
    """Counts operations, and measures how fast the model makes its own here.

    Rough: other networks reach other speeds, and answers of a service count nothing.

    Args:
      zoo: teachers that images are recovered from.
      student: the model.
      wanted: which images.
      asked: rows of the teachers that are asked.
      batch_size: of the training.
      num_steps: of the training.
      asked_per_image: of those teachers; 0: all.
    """
    quota, recipe = panel.quota_of(wanted), wanted.inversion
    counts = {network: operations(network) for network in zoo.networks}
    recovered, inverting = 0, 0.0
    for group in zoo.groups:
        if invertible(recipe, group.network):
            images = group.num_teachers * quota.images(group.network.num_classes)
            recovered += images
            steps = images * recipe.num_steps * _GRADIENT
            inverting += steps * counts[group.network]
    total = recovered + wanted.dead_leaves
    groups = [zoo.locate(int(row))[0] for row in asked]
    answering = total * sum(counts[zoo.networks[number]] for number in groups)
    if 0 < asked_per_image < len(groups):
        answering *= asked_per_image / len(groups)
    rate = operations(student) * batch_size / _seconds_of(student, batch_size)
    rate = rate or 1e10  # Where nothing is known of the model's operations.
    side = wanted.image_size or student.image_shape[0]
    # Weights in files are read when they are used.
    leaves = [x for x in jax.tree.leaves(zoo.teachers) if not in_files(x)]
    weights = sum(leaf.nbytes for leaf in leaves)
    outputs = student.num_classes
    if 0 < asked_per_image < len(groups):
        outputs = asked_per_image * max(n.num_classes for n in zoo.networks)
    held = total * (side * side * student.image_shape[2] + 4 * outputs)
    training = num_steps * batch_size * _GRADIENT * operations(student)
    return Estimate(
        inverting / rate,
        answering / rate,
        training / rate,
        int(weights + held),
        len(counts),
    )


def operations(network: Network) -> float:
    """Floating-point operations of one image's forward pass; 0 where unknown."""
    if network.service is not None:
        return 0.0
    image = jax.ShapeDtypeStruct((1, *network.image_shape), jnp.float32)
    found = jax.jit(network.apply).lower(network.shapes, image).cost_analysis()
    return float((found or {}).get("flops", 0.0))


def _seconds_of(network: Network, count: int) -> float:
    """How long a forward pass of so many images takes."""
    variables = network.init(jax.random.key(0))
    images = jnp.zeros((count, *network.image_shape))
    run = jax.jit(network.apply).lower(variables, images).compile()
    jax.block_until_ready(run(variables, images))
    clock = time.monotonic()
    jax.block_until_ready(run(variables, images))
    return time.monotonic() - clock


def tell(found: Estimate) -> None:
    """One line."""
    print(f"about: {text(found)}", flush=True)


def text(found: Estimate) -> str:
    """Stages, compiling and memory, in one line."""
    stages = zip(("recovering", "asking", "training"), found[:3], strict=True)
    said = ", ".join(
        f"{name} {metrics.format_duration(seconds)}" for name, seconds in stages
    )
    return (
        f"{said} (counted operations at this machine's speed), compiling "
        f"{metrics.format_duration(found.networks * _COMPILING)} "
        f"({nouns.count(found.networks, 'network')}), {found.memory / 1e6:.0f} MB for "
        "teachers, images and answers"
    )
