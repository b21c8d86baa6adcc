"""A zoo whose teachers are endpoints."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from free_jax.errors import InputError
from free_jax.remote.answers import EndpointSpec
from free_jax.remote.hub import Hub
from free_jax.remote.module import Endpoint
from free_jax.types import Teachers
from free_jax.zoo import Zoo, ZooGroup
from free_jax.zoo.classes import Labels, unify
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
      class_names: for each endpoint what its outputs mean.  Equal names are one class,
        an output without a name is a class of its own, see `zoo.classes`; where several
        domains are stated, names carry theirs, as in `zoo.merge`.
      normalizations: mean and standard deviation of each endpoint's channels.
      domains: name of the data each was trained on.

    Returns:
      A `Zoo`; teachers of one group keep the order of `specs`.

    Raises:
      InputError: names or a normalisation do not fit an endpoint.
    """
    told = len(set(filter(None, domains))) > 1
    labels = [
        Labels(spec.name, tuple(_told(name, domain if told else "") for name in names))
        for spec, names, domain in zip(specs, class_names, domains, strict=True)
    ]
    # In the order of the endpoints, whatever their groups: what a run has paid for is
    # known by these numbers.
    table = unify(labels)
    kinds: dict[tuple, list[int]] = {}
    for i, spec in enumerate(specs):
        kind = (spec.num_classes, spec.image_shape, *normalizations[i], domains[i])
        kinds.setdefault(kind, []).append(i)
    groups = []
    for (classes, shape, mean, std, domain), members in kinds.items():
        try:
            network = make_network(
                "endpoint",
                num_classes=classes,
                image_shape=shape,
                mean=mean,
                std=std,
                family=Endpoint,
                gives=(),
                service=hub,
            )
        except ValueError as error:
            raise InputError(f"endpoint {specs[members[0]].name}: {error}") from None
        ids = np.stack([table.ids[i] for i in members])
        variables = {
            "params": {"endpoint": jnp.asarray(members, jnp.int32)},
            "batch_stats": {},
        }
        teachers = Teachers(variables, jnp.asarray(ids, jnp.int32))
        unknown = np.full(len(members), np.nan)
        groups.append(ZooGroup(network, teachers, unknown, domain))
    return Zoo(tuple(groups), table.names)


def _told(name: str | None, domain: str) -> str | None:
    return f"{domain}/{name}" if name and domain else name
