"""One zoo of several, whose classes are told apart by name and domain."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from free_jax import rows as rows_lib
from free_jax.zoo.network import Network
from free_jax.zoo.pool import TEXTS, Zoo, ZooGroup


def merge(zoos: Sequence[Zoo]) -> Zoo:
    """One zoo of several, heterogeneous or not.

    Classes are identified by name: equal names are one class, new ones are appended in
    order.  Where the groups state more than one domain, names carry it ("cub/crow"), so
    that equal names of two data sets are two classes; names of groups that state none
    stay as they are.  Groups of equal network and domain become one.

    Args:
      zoos: at least one; zoos that were merged before may be among them.

    Raises:
      InputError: no zoos.
    """
    domains = {group.domain for zoo in zoos for group in zoo.groups if group.domain}
    tables = [_names(zoo, told=len(domains) > 1) for zoo in zoos]
    names = tuple(dict.fromkeys(name for table in tables for name in table.values()))
    position = {name: i for i, name in enumerate(names)}
    pooled: dict[tuple[Network, str], list[ZooGroup]] = {}
    for zoo, table in zip(zoos, tables, strict=True):
        for group in zoo.groups:
            before = np.asarray(group.teachers.class_ids)
            flat = [position[table[group.domain, i]] for i in before.ravel().tolist()]
            ids: Any = jnp.asarray(np.asarray(flat, np.int32).reshape(before.shape))
            group = dataclasses.replace(
                group, teachers=group.teachers._replace(class_ids=ids)
            )
            pooled.setdefault((group.network, group.domain), []).append(group)
    return Zoo(tuple(map(_one, pooled.values())), names)


def _names(zoo: Zoo, *, told: bool) -> dict[tuple[str, int], str]:
    """The name of each class as the groups of each domain know it, in order.

    Args:
      zoo: any.
      told: whether names carry the domain.
    """
    known: dict[str, set[int]] = {}
    for group in zoo.groups:
        ids = np.unique(np.asarray(group.teachers.class_ids))
        known.setdefault(group.domain, set()).update(ids.tolist())
    # Classes that no teacher knows are the only domain's, or nobody's.
    others = tuple(known) if len(known) == 1 else ("",)
    table = {}
    for i, name in enumerate(zoo.class_names):
        for domain in [d for d, ids in known.items() if i in ids] or others:
            prefix = f"{domain}/" if told and domain else ""
            # Zoos that were merged before carry it already.
            table[domain, i] = prefix + name.removeprefix(prefix)
    return table


def _one(groups: Sequence[ZooGroup]) -> ZooGroup:
    """Groups of one network and domain, stacked."""
    if len(groups) == 1:
        return groups[0]
    teachers = [group.teachers for group in groups]
    texts = {
        what: sum((getattr(g, what) or ("",) * g.num_teachers for g in groups), ())
        for what in TEXTS
        if any(getattr(g, what) for g in groups)
    }
    return dataclasses.replace(
        groups[0],
        teachers=jax.tree.map(lambda *leaves: _joined(leaves), *teachers),
        accuracy=np.concatenate([group.accuracy for group in groups]),
        **texts,
    )


def _joined(leaves: Sequence[Any]) -> Any:
    if any(map(rows_lib.in_files, leaves)):
        return rows_lib.joined(leaves)
    return jnp.asarray(np.concatenate(leaves))
