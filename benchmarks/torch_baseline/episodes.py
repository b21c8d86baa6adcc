"""Second-order MAML on one episode after the other, and its evaluation."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from benchmarks.torch_baseline import networks


class Episode(NamedTuple):
    """Normalised images [n, c, h, w] and labels [n]."""

    support: torch.Tensor
    support_labels: torch.Tensor
    query: torch.Tensor
    query_labels: torch.Tensor


def adapt(
    params: networks.State,
    episode: Episode,
    steps: int,
    learning_rate: float = 0.01,
    second_order: bool = True,
    network: Callable = networks.conv4,
) -> networks.State:
    """Gradient steps on the support cross-entropy; batch norm by the batch."""
    fast = params
    for _ in range(steps):
        logits = network(fast, episode.support, False)
        value = F.cross_entropy(logits, episode.support_labels)
        grads = torch.autograd.grad(
            value, list(fast.values()), create_graph=second_order
        )
        fast = {
            name: weight - learning_rate * grad
            for (name, weight), grad in zip(fast.items(), grads, strict=True)
        }
    return fast


def update(
    params: networks.State,
    optimizer: torch.optim.Optimizer,
    episodes: list[Episode],
    steps: int = 5,
    network: Callable = networks.conv4,
) -> float:
    """One optimiser step on the summed query losses; returns their mean."""
    optimizer.zero_grad()
    total = torch.zeros(())
    for episode in episodes:
        fast = adapt(params, episode, steps, network=network)
        logits = network(fast, episode.query, False)
        total = total + F.cross_entropy(logits, episode.query_labels)
    total.backward()
    optimizer.step()
    return total.item() / len(episodes)


def evaluate(
    params: networks.State,
    episodes: list[Episode],
    steps: int = 10,
    network: Callable = networks.conv4,
) -> list[float]:
    """Transductive query accuracy of each episode."""
    found = []
    for episode in episodes:
        leaves = {k: v.detach().requires_grad_() for k, v in params.items()}
        fast = adapt(leaves, episode, steps, second_order=False, network=network)
        with torch.no_grad():
            logits = network(fast, episode.query, False)
        found.append((logits.argmax(1) == episode.query_labels).float().mean().item())
    return found
