"""OTA fusion: neurons matched layer by layer by optimal transport, then averaged.

Two networks may compute the same with their channels in another order, so an average
of their weights means nothing until channels correspond.  For each layer, the channels
of one network are transported to those of a reference (uniform masses, cost: squared
distance of the weights that enter a channel), and the next layer's inputs follow.

Between layers of equal width the plan is an assignment; between other widths channels
are merged or split, which is why this asks a transport library (POT, exact linear
program) and not an assignment solver.

Reference:
  Singh & Jaggi, "Model Fusion via Optimal Transport", NeurIPS 2020; the baseline "OTA"
  of Wang et al., UAI 2022 (one teacher as reference, uniform histograms, average).
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from free_jax.baselines import setting as setting_lib
from free_jax.baselines.setting import NotApplicable, Scores, Setting
from free_jax.errors import InputError
from free_jax.types import PyTree
from free_jax.zoo.network import Network
from free_jax.zoo.pool import Zoo


def scores(setting: Setting) -> Scores:
    """The meta-model with the teachers' fused weights, adapted to each episode."""
    zoo = setting_lib.teachers_at_once(setting)
    params = setting.programs.once(
        "transport", lambda: transported_params(setting.student, zoo)
    )
    return setting_lib.adapted(setting, params)


def transported_params(student: Network | None, zoo: Zoo) -> PyTree:
    """Mean of the teachers after their channels were matched to the first one's.

    The head's outputs mean other classes in each teacher and are averaged as they are.

    Args:
      student: the network of the result; the first teacher that is one is the
        reference.
      zoo: teachers, which may be of other widths.

    Raises:
      NotApplicable: no teacher is the meta-model's network, or networks that cannot be
        aligned.
    """
    same = [i for i, network in enumerate(zoo.networks) if network == student]
    if student is None or not same:
        name = student.name if student else "unknown"
        raise NotApplicable(f"no teacher has the meta-model's architecture, {name}")
    stacks = [jax.device_get(x.variables["params"]) for x in zoo.teachers]
    networks = [
        jax.tree.map(lambda x, i=i: x[i], stack)
        for stack, group in zip(stacks, zoo.groups, strict=True)
        for i in range(group.num_teachers)
    ]
    reference = jax.tree.map(lambda x: x[0], stacks[same[0]])
    try:
        return fuse(networks, reference)
    except InputError as error:
        raise NotApplicable(str(error)) from None


def fuse(networks: Sequence[PyTree], reference: PyTree) -> PyTree:
    """The mean of networks whose channels were matched to those of a reference.

    Args:
      networks: parameters of Conv4 networks, of any widths.
      reference: parameters whose shapes the result has.

    Returns:
      Parameters as NumPy arrays.

    Raises:
      InputError: see `align`, or no networks.
    """
    if not networks:
        raise InputError("there are no networks to fuse")
    aligned = [align(network, reference) for network in networks]
    return jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *aligned)


def align(params: PyTree, reference: PyTree) -> PyTree:
    """A network with its channels ordered (merged, split) like the reference's.

    Incoming weights of a channel are averaged over what is merged into it and outgoing
    ones added, so that channels which are exact copies of each other merge without
    changing the function.

    Args:
      params: parameters of a Conv4: ``conv{i}``, ``bn{i}`` and ``head``.
      reference: the same, perhaps of another width.

    Returns:
      Parameters of the reference's shapes.

    Raises:
      InputError: not a chain of such layers (residual connections tie the channels of
        several layers together), layers that do not fit, or POT is missing.
    """
    depth = _depth(params)
    if depth != _depth(reference):
        raise InputError("networks of different depth cannot be aligned")
    out: dict[str, PyTree] = {}
    incoming: Any = None  # [before, after]: where the inputs of this layer went
    for i in range(depth):
        conv, norm = f"conv{i}", f"bn{i}"
        kernel = _double(params[conv]["kernel"])
        if incoming is not None:
            kernel = np.einsum("hwio,ij->hwjo", kernel, incoming)
        layer = {
            conv: {"kernel": kernel, "bias": _double(params[conv]["bias"])},
            norm: {name: _double(x) for name, x in params[norm].items()},
        }
        wanted = {name: reference[name] for name in (conv, norm)}
        if kernel.shape[:3] != reference[conv]["kernel"].shape[:3]:
            raise InputError(
                f"{conv}: kernels of shape {kernel.shape} and "
                f"{reference[conv]['kernel'].shape} cannot be aligned"
            )
        plan = _transport(_channels(layer, conv, norm), _channels(wanted, conv, norm))
        average = plan / plan.sum(0)  # columns sum to one
        out |= jax.tree.map(lambda x, p=average: x @ p, layer)
        incoming = plan / plan.sum(1, keepdims=True)  # rows sum to one
    kernel = _double(params["head"]["kernel"])
    before = len(incoming)
    # Features are a flattened map [h * w * channels].
    kernel = np.einsum(
        "sio,ij->sjo", kernel.reshape(-1, before, kernel.shape[1]), incoming
    ).reshape(-1, kernel.shape[1])
    if kernel.shape != reference["head"]["kernel"].shape:
        raise InputError(
            f"head: kernels of shape {kernel.shape} and "
            f"{reference['head']['kernel'].shape} cannot be aligned"
        )
    out["head"] = {"kernel": kernel, "bias": _double(params["head"]["bias"])}
    return jax.tree.map(lambda x: x.astype(np.float32), out)


def _depth(params: PyTree) -> int:
    depth = 0
    while f"conv{depth}" in params:
        depth += 1
    chain = {f"{kind}{i}" for kind in ("conv", "bn") for i in range(depth)}
    if not depth or set(params) != chain | {"head"}:
        raise InputError(
            "optimal-transport alignment is written for a chain of convolutions; "
            f"this network has {', '.join(sorted(set(params) - chain - {'head'}))}"
        )
    return depth


def _channels(layer: PyTree, conv: str, norm: str) -> np.ndarray:
    """What enters each channel, [channels, features].

    The convolution's bias is left out: batch norm cancels it.
    """
    kernel = _double(layer[conv]["kernel"])
    rows = [kernel.reshape(-1, kernel.shape[-1])]
    rows += [_double(layer[norm][name])[None] for name in ("scale", "bias")]
    return np.concatenate(rows).T


def _transport(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Plan [len(a), len(b)] between uniform masses at least squared distance."""
    try:
        import ot
    except ImportError:
        raise InputError(
            "optimal-transport fusion needs POT: pip install 'free_jax[fusion]'"
        ) from None
    masses = [np.full(len(x), 1.0 / len(x)) for x in (a, b)]
    distances = ot.dist(a, b, metric="sqeuclidean")
    return np.asarray(ot.emd(masses[0], masses[1], distances))


def _double(x: PyTree) -> np.ndarray:
    return np.asarray(x, np.float64)
