"""What all teachers of one stack share: network, image shape, normalisation."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from free_jax.errors import InputError
from free_jax.images import to_float
from free_jax.models import get_model
from free_jax.models.normalization import Norm
from free_jax.types import PyTree

# What a network may give besides its answers: gradients with respect to images and
# weights, the features before its head, the moments that enter its batch norms.
GIVES = frozenset({"gradients", "features", "moments"})


@dataclasses.dataclass(frozen=True)
class Network:
    """A network together with the images it expects.  Hashable, not a pytree.

    Build it with `make_network`, which validates.

    Attributes:
      name: a name of `models.model_names()`, or of a family given here.
      num_classes: number of outputs.
      image_shape: (h, w, c) of the images it sees.
      mean, std: per-channel normalisation applied to images in [0, 1].
      kwargs: further fields of the module as sorted (name, value) pairs.
      family: makes the Linen module from ``num_classes`` and ``kwargs``; None: the
        registry's entry `name`.
      gives: what can be had besides logits, of `GIVES`.
      service: the hub that answers, handed to `family`; None: computed here.
      bgr: the network reads channels as blue, green, red; images, `mean` and `std` are
        RGB all the same.
    """

    name: str
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()
    family: Callable[..., nn.Module] | None = None
    gives: frozenset[str] = GIVES
    service: Any = None
    bgr: bool = False

    @property
    def way(self) -> int:
        """The former name of ``num_classes``."""
        return self.num_classes

    @property
    def module(self) -> nn.Module:
        """The Linen module."""
        fields = {"num_classes": self.num_classes, **dict(self.kwargs)}
        if self.service is not None:
            fields["service"] = self.service
        if self.family is None:
            return get_model(self.name, **fields)
        return self.family(**fields)

    @functools.cached_property
    def shapes(self) -> PyTree:
        """Shapes and types of one network's variables; no number is computed.

        Kept as long as the network is: tracing a large one takes a second.
        """
        return jax.eval_shape(self.init, jax.random.key(0))

    def check_gives(self, wanted: str, asker: str, remedy: str) -> None:
        """Refuses a method that the network cannot serve, before anything runs.

        Args:
          wanted: one of `GIVES`.
          asker: what asks for it, e.g. "white-box inversion".
          remedy: what to do instead.

        Raises:
          InputError: the network does not give it.
        """
        if wanted not in self.gives:
            raise InputError(
                f"{asker} asks for {wanted}, which {self.name} does not give; {remedy}"
            )

    def init(self, key: Key[Array, ""]) -> PyTree:
        """Random variables ``{"params": ..., "batch_stats": ...}`` of one network."""
        images = jnp.zeros((1, *self.image_shape))
        variables = self.module.init(key, images, norm="batch")
        # Not every network has statistics, or weights of its own.
        return {name: variables.get(name, {}) for name in ("params", "batch_stats")}

    def normalize(self, images: Num[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Maps RGB or grey images to what the network was trained on.

        Integers are read as 0 to 255; floats are in [0, 1], which inversion may leave.
        """
        images = to_float(images)
        images = (images - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        return images[..., ::-1] if self.bgr else images

    def apply(
        self,
        variables: PyTree,
        images: Num[Array, "n h w c"],
        *,
        norm: Norm = "running",
        features: bool = False,
    ) -> Float[Array, "n f"]:
        """Logits [n, num_classes], or features, of images; see `normalize`."""
        out: Any = self.module.apply(
            variables, self.normalize(images), norm=norm, features=features
        )
        return out

    def apply_with_moments(
        self,
        variables: PyTree,
        images: Num[Array, "n h w c"],
        *,
        norm: Norm = "running",
        features: bool = False,
    ) -> tuple[Float[Array, "n f"], PyTree]:
        """Logits (or features), and the mean and variance entering each batch norm.

        The moments have the tree structure of ``variables["batch_stats"]``; a network
        without batch norm has none.
        """
        out, sown = self.module.apply(
            variables,
            self.normalize(images),
            norm=norm,
            features=features,
            mutable=["moments"],
        )
        return out, sown.get("moments", {})

    def head(self, params: PyTree, features: Float[Array, "n f"]) -> jax.Array:
        """Logits [n, num_classes] of features [n, f]: the last layer alone."""
        return features @ params["head"]["kernel"] + params["head"]["bias"]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready description; `make_network(**d)` rebuilds a registry's network."""
        fields = ("name", "num_classes", "image_shape", "mean", "std")
        described = {name: getattr(self, name) for name in fields} | dict(self.kwargs)
        if self.bgr:
            described["bgr"] = True
        if self.gives != GIVES:
            described["gives"] = sorted(self.gives)
        return described


def _hashable(value: Any) -> Any:
    """Lists, as files have them, as tuples."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _whole(value: Any, name: str) -> int:
    """A whole number of any type; 2.5 classes would be two without a word."""
    try:
        whole = int(value)
    except (TypeError, ValueError, OverflowError):
        whole = None
    if whole is None or isinstance(value, str) or whole != value:
        raise ValueError(f"{name}: {value!r} is no whole number; give one")
    return whole


def make_network(
    name: str,
    *,
    num_classes: int | None = None,
    image_shape: Sequence[int],
    mean: Sequence[float] = (0.5, 0.5, 0.5),
    std: Sequence[float] = (0.5, 0.5, 0.5),
    family: Callable[..., nn.Module] | None = None,
    gives: Collection[str] | None = None,
    service: Any = None,
    bgr: bool = False,
    **kwargs: Any,
) -> Network:
    """Describes a network and its images.

    Args:
      name: of `models.model_names()`, such as "conv4", "resnet12" or "vit"; any where
        there is a `family`.
      num_classes: number of classes it separates.
      image_shape: (h, w, c).
      mean: subtracted from each channel of images in [0, 1].
      std: then divides each channel.
      family: makes the Linen module, which is called as those of `models` are.
      gives: what can be had besides logits, of `GIVES`; None: what the module says
        (``gives``), else all of it, but for the moments of a family without batch norm.
      service: the hub that answers for remote networks.
      bgr: whether the network reads blue, green, red; `mean` and `std` stay RGB.
      **kwargs: further fields of the module, e.g. ``width=64``.

    Returns:
      A hashable `Network`.

    Raises:
      ValueError: unknown name, or shapes that do not fit together.

    >>> import jax, jax.numpy as jnp
    >>> network = make_network("conv4", num_classes=5, image_shape=(32, 32, 3))
    >>> network.apply(network.init(jax.random.key(0)), jnp.zeros((2, 32, 32, 3))).shape
    (2, 5)
    """
    image_shape = tuple(_whole(size, "image_shape") for size in image_shape)
    mean, std = tuple(map(float, mean)), tuple(map(float, std))
    if len(image_shape) != 3:
        raise ValueError(f"image_shape={image_shape} must be (height, width, channels)")
    if not len(mean) == len(std) == image_shape[2]:
        raise ValueError(
            f"mean has {len(mean)} and std {len(std)} values but images have "
            f"{image_shape[2]} channels; give one value a channel"
        )
    if bgr and image_shape[2] != 3:
        raise ValueError(f"bgr: images have {image_shape[2]} channels, not three")
    if min(std) <= 0:
        raise ValueError(f"std={std} must be positive")
    # Files written before say "way".
    num_classes = kwargs.pop("way", None) if num_classes is None else num_classes
    if num_classes is not None:
        num_classes = _whole(num_classes, "num_classes")
    if num_classes is None or num_classes < 2:
        raise ValueError(f"num_classes={num_classes} must be at least 2")
    if min(image_shape[:2]) < 16:
        raise ValueError(f"image_shape={image_shape}: sides must be at least 16")
    if gives is not None and not GIVES.issuperset(gives):
        raise ValueError(f"gives={sorted(gives)}: choose among {sorted(GIVES)}")
    network = Network(
        name,
        num_classes,
        image_shape,
        mean,
        std,
        tuple(sorted((name, _hashable(value)) for name, value in kwargs.items())),
        family,
        GIVES if gives is None else frozenset(gives),
        service,
        bgr,
    )
    module = network.module  # An unknown name or field fails here, not under jit.
    said = getattr(module, "gives", None)
    if gives is None and said is not None:
        return dataclasses.replace(network, gives=frozenset(said))
    if family is not None and gives is None:
        if not jax.tree.leaves(network.shapes["batch_stats"]):
            return dataclasses.replace(network, gives=GIVES - {"moments"})
    return network
