"""One step of FREE: invert, move the generator, align, replay."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.torch_baseline import episodes, inversion, networks


def align(
    student: networks.State,
    optimizer: torch.optim.Optimizer,
    tasks: list[tuple[torch.Tensor, torch.Tensor]],
    scale: float = 67.0,
) -> None:
    """Distils (images, teacher logits) one after the other, then steps towards it."""
    fast = {k: v.detach().clone().requires_grad_() for k, v in student.items()}
    inner = torch.optim.Adam(list(fast.values()), 1e-3)
    for images, target in tasks:
        inner.zero_grad()
        logits = networks.conv4(fast, images, False)
        F.kl_div(logits.softmax(1), target.softmax(1), reduction="mean").backward()
        inner.step()
    optimizer.zero_grad()
    for name, weight in student.items():
        weight.grad = scale * (weight.detach() - fast[name].detach())
    optimizer.step()


def step(
    generator: networks.State,
    student: networks.State,
    teachers: list[networks.State],
    labels: torch.Tensor,
    views: list[inversion.View],
    normalize: Callable,
    sample_episodes: Callable[[], list[episodes.Episode]],
    updates: int,
    latent_dim: int = 256,
) -> None:
    """One whole step with fresh optimisers, as the released code re-creates them."""
    recovered, total = [], None
    for teacher in teachers:

        def loss(fast, latents, view, teacher=teacher):
            return inversion.loss(
                fast,
                latents,
                teacher,
                networks.conv4,
                labels,
                view,
                normalize,
                student,
            )

        latents = torch.randn(len(labels), latent_dim)
        images, grads, _ = inversion.invert(generator, latents, views, loss)
        total = grads if total is None else list(map(torch.add, total, grads))
        recovered.append(images)
    outer = torch.optim.Adam(list(generator.values()), 1e-3, betas=(0.5, 0.999))
    for weight, grad in zip(generator.values(), total, strict=True):
        weight.grad = grad
    outer.step()
    tasks = []
    for images, teacher in zip(recovered, teachers, strict=True):
        seen = normalize(inversion.augment(images, views[0]))
        with torch.no_grad():
            tasks.append((seen, networks.conv4(teacher, seen, True)))
    optimizer = torch.optim.Adam(list(student.values()), 1e-3)
    align(student, optimizer, tasks)
    for _ in range(updates):
        episodes.update(student, optimizer, sample_episodes())
