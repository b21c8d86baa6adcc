"""Conv4, ResNet-18 and the generator as functions of a dict of tensors."""

import math

import torch
import torch.nn.functional as F

State = dict[str, torch.Tensor]


def batch_norm(state: State, name: str, x: torch.Tensor, running: bool):
    """Normalises by the running moments, or by the batch's own."""
    return F.batch_norm(
        x,
        state[f"{name}.running_mean"] if running else None,
        state[f"{name}.running_var"] if running else None,
        state[f"{name}.weight"],
        state[f"{name}.bias"],
        training=not running,
    )


def conv(state: State, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    weight = state[f"{name}.weight"]
    padding = weight.shape[-1] // 2
    return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, padding)


def linear(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def conv4(state: State, x: torch.Tensor, running: bool) -> torch.Tensor:
    """Logits of normalised images [n, c, h, w]."""
    for i in range(4):
        x = conv(state, f"trunk.{i}.C", x)
        x = F.relu(batch_norm(state, f"trunk.{i}.BN", x, running))
        x = F.max_pool2d(x, 2)
    return linear(state, "trunk.5", x.flatten(1))


def resnet18(state: State, x: torch.Tensor, running: bool) -> torch.Tensor:
    """Logits of normalised images [n, c, h, w]."""
    x = batch_norm(state, "trunk.1", conv(state, "trunk.0", x), running)
    for i in range(2, 10):
        name, stride = f"trunk.{i}", 2 if i in (4, 6, 8) else 1
        y = conv(state, f"{name}.C1", x, stride)
        y = F.relu(batch_norm(state, f"{name}.BN1", y, running))
        y = batch_norm(state, f"{name}.BN2", conv(state, f"{name}.C2", y), running)
        if f"{name}.shortcut.weight" in state:
            x = conv(state, f"{name}.shortcut", x, stride)
            x = batch_norm(state, f"{name}.BNshortcut", x, running)
        x = F.relu(x + y)
    return linear(state, "trunk.12", x.mean((2, 3)))


NETWORKS = {"conv4": conv4, "resnet18": resnet18}


def generate(state: State, latents: torch.Tensor) -> torch.Tensor:
    """Images [n, 3, size, size] in [0, 1] of the unconditional generator."""
    x = linear(state, "l1.0", latents)
    channels = len(state["conv_blocks.0.weight"])
    side = math.isqrt(x.shape[1] // channels)
    x = x.view(x.shape[0], channels, side, side)
    x = batch_norm(state, "conv_blocks.0", x, running=False)
    for layer in (2, 6):
        x = F.interpolate(x, scale_factor=2)
        x = conv(state, f"conv_blocks.{layer}", x)
        x = batch_norm(state, f"conv_blocks.{layer + 1}", x, running=False)
        x = F.leaky_relu(x, 0.2)
    return torch.sigmoid(conv(state, "conv_blocks.9", x))


def tensors(arrays: dict) -> State:
    """Float tensors of a dict of arrays; buffers and weights alike."""
    return {
        name: torch.tensor(value)
        for name, value in arrays.items()
        if not name.endswith("num_batches_tracked")
    }


def weights(state: State) -> list[str]:
    """The names that are trained."""
    return [name for name in state if "running" not in name]
