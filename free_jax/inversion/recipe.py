"""One record of an inversion, whichever method uses it, and its builder."""

from collections.abc import Callable, Hashable, Mapping
from typing import Annotated, Literal, NamedTuple

import jax
import optax

from free_jax.inversion.loop import Inverter, MetaGradient, inverter
from free_jax.inversion.objective import Objective, ObjectiveGradient, white_box
from free_jax.inversion.pixels import PIXELS
from free_jax.inversion.sources import (
    Init,
    Source,
    generator_source,
    normalized_source,
    pixel_source,
)
from free_jax.inversion.zero_order import Estimator, estimator_of, zero_order
from free_jax.models import Generator
from free_jax.optimizers import Optimizer, optimizer
from free_jax.options import AtLeast, adam
from free_jax.zoo.network import Network


class GeneratorOptions(NamedTuple):
    """The generator that images are drawn by, where the source is one.

    Attributes:
      width: channels of its first layer, at least 1.
      latent_dim: numbers a latent holds, at least 1.
      labels: how it gets the wanted label: "concat" to the latents, "split" (each
        half of the first layer), or "none".
      optimizer: adapts its parameters to one teacher.
    """

    width: Annotated[int, AtLeast(1)] = 64
    latent_dim: Annotated[int, AtLeast(1)] = 256
    labels: Literal["concat", "split", "none"] = "concat"
    optimizer: Optimizer = adam(3e-3, b1=0.5)


class Recipe(NamedTuple):
    """How a teacher's training images are recovered; the defaults suit pixels.

    Attributes:
      source: what is optimised: the "pixels" through a sigmoid, "normalized_pixels"
        without a bound (PURER), or the latents and weights of a "generator" (FIVE).
      init: pixels start from "noise" or from images of "dead_leaves"; a generator's
        latents are always noise.
      deviation: of the noise that pixels start from, not negative.
      num_steps: K, at least 1.
      optimizer: of the pixels, or of the latents.
      decay: of the learning rates over the steps, to zero: "cosine" or "none".
      generator: see `GeneratorOptions`.
      meta_gradient: what a shared generator is moved by, see `inverter`.
      keep: return the images of the "last" step or of the lowest loss ("best").
      objective: weights of the losses.
      estimator: of the gradient where teachers are only queried, see
        `Estimator.teachers`; None differentiates all.

    References:
      Yin et al., "Dreaming to Distill", CVPR 2020 (pixels); Wei et al., "FREE: Faster
      and Better Data-Free Meta-Learning", CVPR 2024 (FIVE).
    """

    source: Literal["pixels", "normalized_pixels", "generator"] = "pixels"
    init: Init = "noise"
    deviation: Annotated[float, AtLeast(0)] = 0.2
    num_steps: Annotated[int, AtLeast(1)] = 150
    optimizer: Optimizer = adam(0.1)
    decay: Literal["cosine", "none"] = "cosine"
    generator: GeneratorOptions = GeneratorOptions()
    meta_gradient: MetaGradient = "last"
    keep: Literal["last", "best"] = "last"
    objective: Objective = PIXELS
    estimator: Estimator | None = None


# FIVE with FREE's inner loop.
FIVE = Recipe(
    source="generator",
    num_steps=5,
    optimizer=adam(1e-2, b1=0.5),
    decay="none",
    objective=Objective(moments=0.1),
)


def invertible(recipe: Recipe, teacher: Network) -> bool:
    """Whether a recipe finds the gradients that it takes, exact or estimated."""
    return "gradients" in teacher.gives or is_estimated(recipe, teacher)


def is_estimated(recipe: Recipe, teacher: Network) -> bool:
    """Whether the gradients of a network are estimated, or it is differentiated."""
    return estimator_of(recipe.estimator, teacher) is not None


def suited(recipe: Recipe, teacher: Network) -> Recipe:
    """The recipe without what a network cannot give: one for a zoo of unequals.

    Where there is no batch norm there are no statistics to match.

    Args:
      recipe: of the inversion.
      teacher: a network of the zoo.
    """
    if "moments" in teacher.gives or not recipe.objective.moments:
        return recipe
    return recipe._replace(objective=recipe.objective._replace(moments=0.0))


def build(
    recipe: Recipe,
    teacher: Network,
    student: Network | None = None,
    *,
    image_shape: tuple[int, int, int] | None = None,
    respond: Callable[[jax.Array], jax.Array] = lambda logits: logits,
) -> Inverter:
    """Binds a recipe to the teachers of one network.

    >>> from free_jax import make_network
    >>> teacher = make_network("conv4", num_classes=5, image_shape=(32, 32, 3))
    >>> inverter = build(Recipe(init="dead_leaves", num_steps=50), teacher)

    Args:
      recipe: of the inversion.
      teacher: what all teachers given to ``invert`` share.
      student: network of the adversary that ``invert`` will be given; None leaves that
        term out.
      image_shape: (h, w, c) of the recovered images; None: the teacher's.
      respond: the form in which a teacher that is only queried gives its logits, see
        `inversion.answers`.

    Returns:
      An `Inverter`; its ``shared`` is the generator, or ``()`` for pixels.

    Raises:
      ValueError: an option is out of range or unknown, or does not fit the network.
    """
    _check(recipe)
    estimator = estimator_of(recipe.estimator, teacher)
    queries = estimator.queries if estimator else 1
    return inverter(
        build_source(recipe, teacher, image_shape=image_shape),
        build_objective_gradient(recipe, teacher, student, respond=respond),
        teacher,
        optimizer=leaves_optimizer(recipe),
        num_steps=recipe.num_steps,
        meta_gradient=recipe.meta_gradient,
        queries_per_image=queries,
        keep=recipe.keep,
    )


def _check(recipe: Recipe) -> None:
    """Refuses single values that are unknown or out of range."""
    if recipe.init not in ("noise", "dead_leaves"):
        raise ValueError(f"init={recipe.init!r}: choose noise or dead_leaves")
    if recipe.num_steps < 1:
        raise ValueError(f"num_steps={recipe.num_steps} must be at least 1")
    if recipe.keep not in ("last", "best"):
        raise ValueError(f"keep={recipe.keep!r} must be 'last' or 'best'")


def build_source(
    recipe: Recipe,
    network: Network,
    *,
    image_shape: tuple[int, int, int] | None = None,
) -> Source:
    """Where a recipe's images come from.

    Args:
      recipe: of the inversion.
      network: gives the number of labels, the normalisation, and the image's size
        where `image_shape` is None.
      image_shape: (h, w, c) of the images.

    Raises:
      ValueError: an unknown source, or dead leaves where nothing starts from images.
    """
    shape = network.image_shape if image_shape is None else image_shape
    if recipe.deviation < 0:
        raise ValueError(f"deviation={recipe.deviation} must not be negative")
    if recipe.source == "pixels":
        return pixel_source(shape, recipe.deviation, recipe.init)
    if recipe.init != "noise":
        raise ValueError(
            f"init={recipe.init!r}: only source='pixels' starts from images; with "
            f"source={recipe.source!r} use 'noise'"
        )
    if recipe.source == "normalized_pixels":
        return normalized_source(shape, network.mean, network.std, recipe.deviation)
    if recipe.source != "generator":
        raise ValueError(
            f"source={recipe.source!r}: choose pixels, normalized_pixels or generator"
        )
    options = recipe.generator
    if options.labels not in ("concat", "split", "none"):
        raise ValueError(f"labels={options.labels!r}: choose concat, split or none")
    generator = Generator(
        image_shape=shape,
        width=options.width,
        num_classes=0 if options.labels == "none" else network.num_classes,
        label_input="split" if options.labels == "split" else "concat",
    )
    return generator_source(generator, options.latent_dim)


def build_objective_gradient(
    recipe: Recipe,
    teacher: Network,
    student: Network | None = None,
    *,
    respond: Callable[[jax.Array], jax.Array] = lambda logits: logits,
) -> ObjectiveGradient:
    """The loss of a recipe's images and its gradient, exact or estimated; see `build`.

    Raises:
      ValueError: the objective asks for what an estimate cannot give.
    """
    estimator = estimator_of(recipe.estimator, teacher)
    if estimator is None:
        return white_box(recipe.objective, teacher, student)
    return zero_order(
        recipe.objective,
        teacher,
        student,
        estimator=estimator,
        respond=respond,
    )


def leaves_optimizer(recipe: Recipe) -> optax.GradientTransformation:
    """What adapts the pixels, or generator and latents, to one teacher.

    Raises:
      ValueError: an unknown decay, or a learning rate that is not positive.
    """
    main = _decayed(recipe.optimizer, recipe)
    if recipe.source != "generator":
        return main
    transforms: dict[Hashable, optax.GradientTransformation] = {
        "generator": _decayed(recipe.generator.optimizer, recipe),
        "latents": main,
    }
    return optax.multi_transform(transforms, {name: name for name in transforms})


def _decayed(given: Optimizer, recipe: Recipe) -> optax.GradientTransformation:
    if recipe.decay not in ("none", "cosine"):
        raise ValueError(f"decay={recipe.decay!r}: choose cosine or none")
    rate = None
    if isinstance(given, Mapping):
        rate = dict(given.get("kwargs") or {}).get("learning_rate")
    if isinstance(rate, (int, float)) and rate <= 0:
        raise ValueError(f"learning_rate={rate} must be positive")
    if recipe.decay == "none":
        return optimizer(given)
    if not isinstance(given, Mapping):
        schedule = optax.cosine_decay_schedule(1.0, recipe.num_steps)
        return optax.chain(given, optax.scale_by_schedule(schedule))
    if not isinstance(rate, (int, float)):
        raise ValueError(
            f"learning_rate={rate!r} is no number that decay='cosine' could lower; "
            "use decay='none'"
        )
    schedule = {
        "name": "cosine_decay_schedule",
        "kwargs": {"init_value": rate, "decay_steps": recipe.num_steps},
    }
    kwargs = {**dict(given["kwargs"]), "learning_rate": schedule}
    return optimizer({**given, "kwargs": kwargs})
