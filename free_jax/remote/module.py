"""A classifier that runs elsewhere: a module whose forward pass asks a hub."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from free_jax.errors import InputError
from free_jax.models.normalization import Norm


class Endpoint(nn.Module):
    """One of a hub's endpoints; its only variable says which.

    It maps like any network.  `jax.vmap` over teachers makes ONE call to the host, with
    the requests of all of them in flight together; `jax.lax.map` asks one teacher after
    the other.

    Attributes:
      num_classes: number of outputs.
      service: has ``ask(index [...], images [..., n, h, w, c]) ->
        [..., n, num_classes]`` on NumPy arrays; leading axes may be 1 where
        the other argument varies.  NaN means that there is no answer.  See
        `remote.Hub`.
    """

    num_classes: int
    service: Any

    @nn.compact
    def __call__(
        self, images: jax.Array, *, norm: Norm, features: bool = False
    ) -> jax.Array:
        """Maps normalised images [n, h, w, c] to logits [n, num_classes].

        Raises:
          InputError: features, batch-norm moments or a gradient are asked for.
        """
        del norm  # An endpoint normalises by statistics of its own.
        index = self.param("endpoint", lambda _: jnp.zeros((), jnp.int32))
        if self.is_initializing():
            return jnp.zeros((images.shape[0], self.num_classes))
        if features or self.is_mutable_collection("moments"):
            raise InputError(
                "endpoints only answer queries: they have no features and no layer "
                "statistics; set objective.moments=0, or use a method for black boxes"
            )
        return _ask(self.service, self.num_classes, index, images)


def _ask(
    service: Any, num_classes: int, index: jax.Array, images: jax.Array
) -> jax.Array:
    shape = jax.ShapeDtypeStruct((images.shape[0], num_classes), jnp.float32)

    @jax.custom_jvp
    def query(index, images):
        return jax.pure_callback(
            service.ask, shape, index, images, vmap_method="expand_dims"
        )

    @query.defjvp
    def no_gradient(primals, tangents):
        raise InputError(
            "endpoints give no gradients: stop the gradient of the images that they "
            "see, or use zero-order inversion; a panel needs recover.images_per_class=0"
        )

    return query(index, images.astype(jnp.float32))
