"""A zoo whose teachers are endpoints."""

from collections.abc import Sequence

import numpy as np

from free_jax.errors import InputError
from free_jax.remote.answers import EndpointSpec
from free_jax.remote.hub import Hub
from free_jax.remote.module import Endpoint
from free_jax.zoo import Zoo, merge
from free_jax.zoo.assembly import Teacher, assemble
from free_jax.zoo.network import make_network

Normalization = tuple[tuple[float, ...], tuple[float, ...]]


def remote_zoo(
    hub: Hub,
    specs: Sequence[EndpointSpec],
    class_names: Sequence[Sequence[str | None]],
    normalizations: Sequence[Normalization],
    domains: Sequence[str],
) -> Zoo:
    """The zoo of a hub's endpoints.

    A group has one number of classes, one image size and one normalisation.
    Its teachers are used like any others: ``network.apply(variables, images)``
    works under `jax.jit`, `jax.vmap` and `jax.lax.map`, but has no gradient.

    Args:
      hub: open or not.
      specs: of its clients, in order.
      class_names: for each endpoint what its outputs mean.  Classes are told apart as
        those of model files are: equal names of one domain are one class, an output
        without a name is a class of its own, see `zoo.classes` and `zoo.merge`.
      normalizations: mean and standard deviation of each endpoint's channels.
      domains: name of the data each was trained on.

    Returns:
      A `Zoo`; teachers of one group keep the order of `specs`.

    Raises:
      InputError: names or a normalisation do not fit an endpoint.
    """
    found: dict[str, list[Teacher]] = {}
    for number, spec in enumerate(specs):
        mean, std = normalizations[number]
        try:
            network = make_network(
                "endpoint",
                num_classes=spec.num_classes,
                image_shape=spec.image_shape,
                mean=mean,
                std=std,
                family=Endpoint,
                gives=(),
                service=hub,
            )
        except ValueError as error:
            raise InputError(f"endpoint {spec.name}: {error}") from None
        variables = {"params": {"endpoint": np.int32(number)}, "batch_stats": {}}
        names, domain = tuple(class_names[number]), domains[number]
        teacher = Teacher(spec.name, network, variables, names, domain=domain)
        found.setdefault(domain, []).append(teacher)
    return merge([assemble(teachers).zoo for teachers in found.values()])
