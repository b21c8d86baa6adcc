"""The last layer of every classifier here."""

import flax.linen as nn
import jax

from free_jax.models.cpu.convolution import torch_uniform


def with_head(description: jax.Array, num_classes: int, *, features: bool) -> jax.Array:
    """Logits [n, num_classes] of a module's description, or the description itself.

    To be called within a module, as the last thing it does: the layer is its "head".

    Args:
      description: [n, f].
      num_classes: number of outputs.
      features: return the description.
    """
    size = description.shape[-1]
    # The head is created even when features are asked, so that initialisation does not
    # depend on the first call.
    logits = nn.Dense(
        num_classes,
        kernel_init=torch_uniform(size),
        bias_init=torch_uniform(size),
        name="head",
    )(description)
    return description if features else logits
