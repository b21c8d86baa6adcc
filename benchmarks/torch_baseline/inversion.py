"""FIVE's inner loop: one teacher, the generator and its latents adapted by Adam."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.torch_baseline import networks


class View(NamedTuple):
    """One crop and flip of a whole batch, as the released codes draw it."""

    row: int
    column: int
    flip: bool


def augment(images: torch.Tensor, view: View, padding: int = 4) -> torch.Tensor:
    """Shifts by (row, column) pixels, black where nothing is, then mirrors."""
    size = images.shape[-1]
    top, left = padding + view.row, padding + view.column
    x = F.pad(images, (padding,) * 4)[..., top : top + size, left : left + size]
    return x.flip(-1) if view.flip else x


def agreement(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """The adversarial term of FREE's released code."""
    same = (student.argmax(1) == teacher.argmax(1)).float()
    kl = F.kl_div(teacher.softmax(1), student.softmax(1), reduction="none").sum(1)
    return -(kl * same).mean()


def loss(
    generator: networks.State,
    latents: torch.Tensor,
    teacher: networks.State,
    network: Callable,
    labels: torch.Tensor,
    view: View,
    normalize: Callable,
    student: networks.State | None = None,
) -> torch.Tensor:
    """The inversion loss of one step."""
    images = networks.generate(generator, latents)
    views = normalize(augment(images, view))
    logits = network(teacher, views, True)
    value = F.cross_entropy(logits, labels)
    if student is not None:
        with torch.no_grad():
            said = networks.conv4(student, views, False)
        value = value + agreement(said, logits)
    return value


def invert(
    generator: networks.State,
    latents: torch.Tensor,
    views: list[View],
    step_loss: Callable,
    learning_rate: float = 1e-3,
) -> tuple[torch.Tensor, list[torch.Tensor], list[float]]:
    """Adapts copies for ``len(views)`` steps; the last one is not applied.

    Returns:
      The last step's images, its gradient of the generator, and all losses.
    """
    fast = {k: v.clone().requires_grad_() for k, v in generator.items()}
    latents = latents.clone().requires_grad_()
    leaves = [*fast.values(), latents]
    optimizer = torch.optim.Adam(leaves, learning_rate, betas=(0.5, 0.999))
    losses = []
    for i, view in enumerate(views):
        optimizer.zero_grad()
        value = step_loss(fast, latents, view)
        value.backward()
        losses.append(value.item())
        if i + 1 < len(views):
            optimizer.step()
    with torch.no_grad():
        images = networks.generate(fast, latents)
    return images, [leaf.grad for leaf in fast.values()], losses
