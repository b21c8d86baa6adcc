"""How one teacher is inverted, whichever method asks for it: one record."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from free_jax.inversion.loop import MetaGradient
from free_jax.inversion.objective import Objective
from free_jax.inversion.zero_order import Estimator
from free_jax.options import AtLeast, Named, adam


class GeneratorOptions(NamedTuple):
    """The generator that images come from, where ``source`` is "generator".

    Attributes:
      width: channels of its widest maps.
      latent_dim: of the noise vector of an image.
      labels: how the wanted class enters: "concat" beside the latents, "split" as
        half of them, or "none" (FREE's and BiDf-MKD's released codes).
      optimizer: of its weights within one inversion.
    """

    width: Annotated[int, AtLeast(1)] = 64
    latent_dim: Annotated[int, AtLeast(1)] = 256
    labels: Literal["none", "split", "concat"] = "concat"
    optimizer: Named = adam(3e-3, b1=0.5)


class Recipe(NamedTuple):
    """An inversion.

    Attributes:
      source: what is optimised: "pixels" before a sigmoid, "normalized_pixels" (those
        of PURER) or a "generator" and its latents.
      init: what pixels start from: "noise", or "dead_leaves", synthetic images whose
        edges and colours stay where the teacher does not object.
      deviation: of the noise that pixels start from.
      num_steps: of one inversion.
      optimizer: of pixels or latents.
      decay: of their rate over an inversion.
      generator: where `source` is "generator".
      meta_gradient: what moves a shared generator: the "last" step's gradient, the
        "sum" of all, or where they led ("reptile").
      keep: images of the "last" step, or of the "best" one by loss.
      objective: weights of the losses.
      estimator: of the gradient, where teachers can only be asked; None
        differentiates them.
    """

    source: Literal["pixels", "normalized_pixels", "generator"] = "pixels"
    init: Literal["noise", "dead_leaves"] = "noise"
    deviation: Annotated[float, AtLeast(0)] = 0.2
    num_steps: Annotated[int, AtLeast(1)] = 150
    optimizer: Mapping[str, Any] = adam(0.1)
    decay: Literal["none", "cosine"] = "none"
    generator: GeneratorOptions = GeneratorOptions()
    meta_gradient: MetaGradient = "last"
    keep: Literal["last", "best"] = "last"
    objective: Objective = Objective()
    estimator: Estimator | None = None
