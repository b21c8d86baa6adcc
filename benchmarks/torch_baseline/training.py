"""Supervised training of one teacher, batch after batch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.torch_baseline import networks


def step(
    state: networks.State,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    labels: torch.Tensor,
    network: Callable,
) -> float:
    """One Adam step on a batch; running moments follow the batch's."""
    optimizer.zero_grad()
    loss = F.cross_entropy(network(state, images), labels)
    loss.backward()
    names = networks.weights(state)
    torch.nn.utils.clip_grad_norm_([state[name] for name in names], 50.0)
    optimizer.step()
    return loss.item()


def distillation_step(
    state: networks.State,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    answers: torch.Tensor,
    temperature: float,
    network: Callable,
) -> float:
    """One Adam step towards what teachers said, a head of [n, t, way] each."""
    optimizer.zero_grad()
    said = network(state, images).view(answers.shape) / temperature
    wanted = F.log_softmax(answers / temperature, -1)
    loss = F.kl_div(F.log_softmax(said, -1), wanted, reduction="none", log_target=True)
    loss = loss.sum(-1).mean()
    loss.backward()
    optimizer.step()
    return loss.item()


def conv4_training(state: networks.State, x: torch.Tensor) -> torch.Tensor:
    """Conv4 as a teacher is trained: batch moments, running moments updated."""
    for i in range(4):
        name = f"trunk.{i}.BN"
        x = F.batch_norm(
            networks.conv(state, f"trunk.{i}.C", x),
            state[f"{name}.running_mean"],
            state[f"{name}.running_var"],
            state[f"{name}.weight"],
            state[f"{name}.bias"],
            training=True,
            momentum=0.1,
        )
        x = F.max_pool2d(F.relu(x), 2)
    return networks.linear(state, "trunk.5", x.flatten(1))


def epoch(
    state: networks.State,
    images: torch.Tensor,
    labels: torch.Tensor,
    flips: torch.Tensor,
    normalize: Callable,
    network: Callable = conv4_training,
    learning_rate: float = 0.01,
) -> list[float]:
    """Batches in the given order; each image mirrored where `flips` says so.

    Args:
      state: trained in place.
      images: [b, n, c, h, w] uint8.
      labels: [b, n].
      flips: [b, n] bool.
      normalize: applied to images in [0, 1].
      network: ``(state, images) -> logits``.
      learning_rate: of Adam.

    Returns:
      The loss of each batch.
    """
    names = networks.weights(state)
    for name in names:
        state[name].requires_grad_()
    optimizer = torch.optim.Adam([state[name] for name in names], learning_rate)
    losses = []
    for batch, label, flip in zip(images, labels, flips, strict=True):
        x = batch.float() / 255
        x = torch.where(flip[:, None, None, None], x.flip(-1), x)
        losses.append(step(state, optimizer, normalize(x), label, network))
    return losses
