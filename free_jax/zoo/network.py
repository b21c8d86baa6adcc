"""What all teachers of one stack share: network, image shape, normalisation."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from free_jax.models import get_model
from free_jax.models.normalization import Norm
from free_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class Network:
    """A network together with the images it expects.  Hashable, not a pytree.

    Build it with `make_network`, which validates.

    Attributes:
      name: a name of `models.model_names()`.
      num_classes: number of outputs.
      image_shape: (h, w, c) of the images it sees.
      mean, std: per-channel normalisation applied to images in [0, 1].
      kwargs: further fields of the module as sorted (name, value) pairs.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()

    @property
    def way(self) -> int:
        """The former name of ``num_classes``."""
        return self.num_classes

    @property
    def module(self) -> nn.Module:
        """The Linen module."""
        return get_model(self.name, num_classes=self.num_classes, **dict(self.kwargs))

    @property
    def service(self) -> Any:
        """The hub that answers for a remote network; None where it is at hand."""
        return dict(self.kwargs).get("hub") if self.remote else None

    @property
    def remote(self) -> bool:
        """Asked over a network: map over teachers with `jax.vmap`, not `lax.map`."""
        return self.name == "endpoint"

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Random variables ``{"params": ..., "batch_stats": ...}`` of one network."""
        images = jnp.zeros((1, *self.image_shape))
        variables = self.module.init(key, images, norm="batch")
        # An endpoint has no statistics.
        return {name: variables.get(name, {}) for name in ("params", "batch_stats")}

    def normalize(self, images: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Maps images in [0, 1] to what the network was trained on."""
        return (images - jnp.asarray(self.mean)) / jnp.asarray(self.std)

    def apply(
        self,
        variables: PyTree,
        images: Float[Array, "n h w c"],
        *,
        norm: Norm = "running",
        features: bool = False,
    ) -> Float[Array, "n f"]:
        """Logits [n, num_classes] (or features) of images [n, h, w, c] in [0, 1]."""
        out: Any = self.module.apply(
            variables, self.normalize(images), norm=norm, features=features
        )
        return out

    def apply_with_moments(
        self,
        variables: PyTree,
        images: Float[Array, "n h w c"],
        *,
        norm: Norm = "running",
        features: bool = False,
    ) -> tuple[Float[Array, "n f"], PyTree]:
        """Logits (or features), and the mean and variance entering each batch norm.

        The moments have the tree structure of ``variables["batch_stats"]``.
        """
        out, sown = self.module.apply(
            variables,
            self.normalize(images),
            norm=norm,
            features=features,
            mutable=["moments"],
        )
        return out, sown["moments"]

    def head(self, params: PyTree, features: Float[Array, "n f"]) -> jax.Array:
        """Logits [n, num_classes] of features [n, f]: the last layer alone."""
        return features @ params["head"]["kernel"] + params["head"]["bias"]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready description; `make_network(**d)` rebuilds it."""
        # Not `asdict`, which copies what keyword arguments hold.
        fields = [field.name for field in dataclasses.fields(self)]
        named = {name: getattr(self, name) for name in fields if name != "kwargs"}
        return {**named, **dict(self.kwargs)}


def make_network(
    name: str,
    *,
    num_classes: int | None = None,
    image_shape: Sequence[int],
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    **kwargs,
) -> Network:
    """Describes a network and its images.

    Args:
      name: "conv4" or "resnet10", "resnet18", "resnet34", "resnet50", "resnet101".
      num_classes: number of classes it separates.
      image_shape: (h, w, c).
      mean: subtracted from each channel of images in [0, 1].
      std: then divides each channel.
      **kwargs: further fields of the module, e.g. ``width=64``.

    Returns:
      A hashable `Network`.

    Raises:
      ValueError: unknown name, or shapes that do not fit together.

    >>> import jax, jax.numpy as jnp
    >>> arch = make_network("conv4", num_classes=5, image_shape=(32, 32, 3))
    >>> arch.apply(arch.init(jax.random.key(0)), jnp.zeros((2, 32, 32, 3))).shape
    (2, 5)
    """
    image_shape = tuple(int(size) for size in image_shape)
    mean, std = tuple(map(float, mean)), tuple(map(float, std))
    if len(image_shape) != 3:
        raise ValueError(f"image_shape={image_shape} must be (height, width, channels)")
    if not len(mean) == len(std) == image_shape[2]:
        raise ValueError(
            f"mean has {len(mean)} and std {len(std)} values but images have "
            f"{image_shape[2]} channels; give one value a channel"
        )
    if min(std) <= 0:
        raise ValueError(f"std={std} must be positive")
    # Files written before say "way".
    num_classes = kwargs.pop("way", None) if num_classes is None else num_classes
    if num_classes is None or num_classes < 2:
        raise ValueError(f"num_classes={num_classes} must be at least 2")
    if min(image_shape[:2]) < 16:
        raise ValueError(f"image_shape={image_shape}: sides must be at least 16")
    arch = Network(
        name, int(num_classes), image_shape, mean, std, tuple(sorted(kwargs.items()))
    )
    arch.module  # noqa: B018 - an unknown name or field fails here, not under jit
    return arch
