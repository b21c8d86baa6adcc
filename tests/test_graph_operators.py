"""Operators against PyTorch: values and gradients of images, one small module each."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from graph_modules import images, nhwc, raw_graph  # noqa: E402
from torch import nn  # noqa: E402

from free_jax.interop.programs import canonical  # noqa: E402
from free_jax.models import program_text  # noqa: E402
from free_jax.models.graph import run  # noqa: E402
from free_jax.models.operators import OPERATORS, layout  # noqa: E402

# Exporting warns about its own future.
pytestmark = pytest.mark.filterwarnings("ignore")


class Does(nn.Module):
    """A function of images and modules as a module."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, x):
        return self.function(x, *self.parts)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def set_in_place(x):
    y = x.clone()
    y[:, 0] = 0
    y += 1
    y[:, 1:2, ::2] *= 2
    return y


def blocks(x):
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(n, c * 4, h // 2, w // 2)


def spatial_transform(x, linear, **how):
    theta = linear(x.mean((2, 3))).view(-1, 2, 3) + torch.eye(2, 3)
    grid = F.affine_grid(theta, x.shape, align_corners=how["align_corners"])
    return F.grid_sample(x, grid, **how)


def batch_norm(**kwargs):
    layer = nn.BatchNorm2d(3, **kwargs)
    if layer.running_mean is not None:
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2)
    return layer


CONVOLUTIONS = {
    "plain": nn.Conv2d(3, 4, 3, padding=1),
    "grouped, dilated, strided": nn.Conv2d(3, 6, 3, groups=3, dilation=2, stride=2),
    "strides differ": nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0)),
    "wide stride": nn.Conv2d(3, 4, 1, stride=2, bias=False),
    "patches": nn.Conv2d(3, 5, (3, 2), (3, 2)),
    "many taps": nn.Conv2d(3, 2, 9, 4, 2),
    "same": nn.Conv2d(3, 4, (4, 3), padding="same"),
    "padded by reflection": nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    "padded in circles": nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
    "padded by the border": nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate"),
    "transposed": nn.ConvTranspose2d(3, 5, 3, 2, 1, 1),
    "transposed, grouped": nn.ConvTranspose2d(3, 6, 3, 2, 1, groups=3),
    "transposed, dilated": nn.ConvTranspose2d(3, 6, (3, 2), (2, 1), dilation=2),
    "depthwise 7x7": nn.Conv2d(3, 3, 7, padding=3, groups=3),
    "depthwise, two each": nn.Conv2d(3, 6, 3, 2, 1, groups=3, bias=False),
    "one axis": Does(lambda x, m: m(x.flatten(2)), nn.Conv1d(3, 4, 3, 2, 1)),
    "three axes": Does(lambda x, m: m(x[:, None]), nn.Conv3d(1, 2, (3, 3, 2), 2, 1)),
    "weight norm": nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
    "spectral norm": nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)),
    "unfold": nn.Unfold(3, padding=1, stride=2, dilation=2),
}
POOLINGS = {
    "max 2": nn.MaxPool2d(2),
    "max 2 of 3 rows": Does(lambda x: F.max_pool2d(x[:, :, :15], 2)),
    "max 3": nn.MaxPool2d(3, 2, 1),
    "max, ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "max 2, ceil": Does(lambda x: F.max_pool2d(x[..., :15], 2, ceil_mode=True)),
    "max, dilated": nn.MaxPool2d(3, 1, 1, dilation=2),
    "average": nn.AvgPool2d(2),
    "average, ceil": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "average, ceil, beyond": nn.AvgPool2d(4, 3, 2, ceil_mode=True),
    "average without zeros": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "average, ceil, without": nn.AvgPool2d(
        3, 2, 1, ceil_mode=True, count_include_pad=False
    ),
    "average by a divisor": nn.AvgPool2d(3, 2, divisor_override=5),
    "adaptive 3x5": nn.AdaptiveAvgPool2d((3, 5)),
    "adaptive 4": nn.AdaptiveAvgPool2d((4, None)),
    "adaptive, more than there is": nn.AdaptiveAvgPool2d(20),
    "adaptive max 3": nn.AdaptiveMaxPool2d(3),
    "adaptive max 1": nn.AdaptiveMaxPool2d(1),
    "power": nn.LPPool2d(2, 2),
    "blur": Does(lambda x: F.max_pool1d(F.avg_pool1d(x.flatten(2), 3), 4)),
}
ACTIVATIONS = {
    name: getattr(nn, name)()
    for name in (
        *("GELU", "Hardswish", "Hardsigmoid", "Mish", "ELU", "CELU", "SELU"),
        *("Softplus", "SiLU", "ReLU6", "LeakyReLU", "PReLU", "Tanhshrink", "Hardtanh"),
        *(
            "Sigmoid",
            "LogSigmoid",
            "Softsign",
            "RReLU",
            "Hardshrink",
            "Softshrink",
            "Softmax2d",
        ),
    )
} | {
    "GELU by tanh": nn.GELU("tanh"),
    "GLU": Does(lambda x: F.glu(x, -1)),
    "PReLU a channel": nn.PReLU(3),
    "threshold": nn.Threshold(0.1, -2.0),
    "in place": Does(lambda x: F.relu_((x * 2).add_(-0.5)) * 1),
    "softmin": Does(lambda x: F.softmin(x, 1) * 2),
    "logs": Does(lambda x: torch.log1p(x.abs()) + x.square().add(1).log2()),
    "clamp": Does(lambda x: x.clamp(-0.5, 0.7) + x.clamp_min(0.1) + x.clip(max=0.3)),
    "logit": Does(lambda x: torch.logit(x.sigmoid(), 1e-3)),
    "rounding": Does(
        lambda x: x * x.floor() + torch.div(x, 0.3, rounding_mode="trunc")
    ),
    "remainder": Does(lambda x: x.remainder(0.7) + x.fmod(0.6) + x.atan2(x.exp())),
}
NORMS = {
    "layer norm of all": nn.LayerNorm((3, 16, 16)),
    "layer norm": nn.LayerNorm(16, elementwise_affine=False),
    "group norm": nn.GroupNorm(3, 3),
    "instance norm": nn.InstanceNorm2d(3, affine=True),
    "instance norm, kept": nn.InstanceNorm2d(3, track_running_stats=True),
    "local response": nn.LocalResponseNorm(3),
    "batch norm": batch_norm(),
    "batch norm without affine": batch_norm(affine=False),
    "batch norm without statistics": batch_norm(track_running_stats=False),
    "RMS norm": nn.RMSNorm(16),
    "L2": Does(lambda x: F.normalize(x, dim=1)),
    "moments": Does(
        lambda x: x.std((2, 3)) + x.var((2, 3), unbiased=False) + x.norm(1, (2, 3))
    ),
    "moments at once": Does(lambda x: torch.cat(torch.var_mean(x, (2, 3)), 1)),
}
SHAPES = {
    "channel shuffle": Does(lambda x: F.channel_shuffle(x.repeat(1, 2, 1, 1), 3)),
    "pixel unshuffle": nn.PixelUnshuffle(2),
    "pixel shuffle": Does(
        lambda x, m: m(x.repeat(1, 4, 1, 1) * torch.arange(12).view(12, 1, 1)),
        nn.PixelShuffle(2),
    ),
    "roll": Does(lambda x: x.roll((1, -2), (2, 3))),
    "flip": Does(lambda x: x.flip(3).rot90(1, (2, 3))),
    "chunks": Does(
        lambda x: torch.cat([p * i for i, p in enumerate(x.chunk(3, 2))], 2)
    ),
    "splits": Does(lambda x: torch.stack([p.sum(2) for p in x.split([4, 12], 2)])[1]),
    "python sizes": Does(blocks),
    "in-place slices": Does(set_in_place),
    "index": Does(lambda x: x[:, [2, 0]][..., torch.tensor([0, 5, 5])]),
    "gather": Does(
        lambda x: x.gather(2, torch.arange(3).expand(x.shape[0], 3, 1, 3) + 4)
    ),
    "crops": Does(lambda x: F.pad(x[:, :, 1:-1, ::2], (-1, 2, 0, 1), value=0.5)),
    "unfold": Does(lambda x: x.unfold(2, 4, 3).mean(3)),
    "mask": Does(lambda x: x.masked_fill(x > 0.5, -1) + torch.where(x < 0, x, 2 * x)),
    "triangle": Does(lambda x: x.tril() + x.triu(2)),
    "batch in a view": Does(lambda x: x.view(x.size(0), -1)[:, : x.size(2) * 3]),
    "class token": Does(
        lambda x: torch.cat(
            [torch.ones(1, 1, 3).expand(x.shape[0], -1, -1), tokens(x)], 1
        )
    ),
    "half": Does(lambda x: (x.double() * 2).float()),
    "one hot": Does(lambda x: F.one_hot((x.mean((2, 3)) > 0).long(), 2) * x.mean()),
    "repeats": Does(lambda x: x.repeat_interleave(2, 2).tile(1, 1, 1, 2)),
}
RESIZES = {
    f"{mode} {scale} {align} {smooth}": Does(
        lambda x, mode=mode, scale=scale, align=align, smooth=smooth: F.interpolate(
            x, scale_factor=scale, mode=mode, align_corners=align, antialias=smooth
        )
    )
    for mode, align, smooth in (
        *((m, a, False) for m in ("bilinear", "bicubic") for a in (False, True)),
        *((m, False, True) for m in ("bilinear", "bicubic")),
    )
    for scale in (1.5, 0.4)
} | {
    "nearest 1.5": Does(lambda x: F.interpolate(x, scale_factor=1.5)),
    "nearest 0.4": Does(lambda x: F.interpolate(x, scale_factor=0.4)),
    "nearest to 23": Does(lambda x: F.interpolate(x, size=(23, 7))),
    "nearest exact": Does(lambda x: F.interpolate(x, size=23, mode="nearest-exact")),
    "area": Does(lambda x: F.interpolate(x, size=7, mode="area")),
    "linear": Does(lambda x: F.interpolate(x.flatten(2), size=100, mode="linear")),
    "places": Does(
        lambda x, m: spatial_transform(x, m, align_corners=False), nn.Linear(3, 6)
    ),
    "places, border": Does(
        lambda x, m: spatial_transform(x, m, align_corners=True, padding_mode="border"),
        nn.Linear(3, 6),
    ),
}
PRODUCTS = {
    "einsum": Does(lambda x: torch.einsum("nchw,nchv->nhwv", x, x)),
    "matmul": Does(lambda x: x @ x.mT + torch.bmm(x[:, 0], x[:, 1])[:, None]),
    "bilinear": Does(lambda x, m: m(x, x.flip(1)), nn.Bilinear(16, 16, 4)),
    "attention": Does(
        lambda x, p, a: a(*[tokens(p(x))] * 3, need_weights=False)[0].mean(1),
        nn.Conv2d(3, 16, 4, 4),
        nn.MultiheadAttention(16, 4, batch_first=True),
    ),
    "encoder": Does(
        lambda x, p, e: e(tokens(p(x))).mean(1),
        nn.Conv2d(3, 16, 4, 4),
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, activation="gelu"),
    ),
    "causal": Does(lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True)),
    "masked": Does(
        lambda x: F.scaled_dot_product_attention(
            x, x, x, torch.ones(16, 16, dtype=torch.bool).tril(), scale=0.3
        )
    ),
    "biased": Does(
        lambda x: F.scaled_dot_product_attention(x, x, x, torch.eye(16).to(x) * 2)
    ),
}
REDUCTIONS = {
    "extremes": Does(lambda x: x.amax((2, 3)) + x.max(2).values.min(2)[0]),
    "log of sums": Does(lambda x: x.logsumexp((2, 3))),
    "cumulative": Does(lambda x: x.cumsum(2).topk(3, -1)[0]),
    "sorted": Does(lambda x: x.sort(2, descending=True)[0] * torch.arange(16)),
    "products": Does(lambda x: (1 + x / 9).prod(3) + x.sum() + x.mean()),
    "places": Does(lambda x: x.mean((2, 3)) * x.argmax(3).float().mean(2)),
    "any": Does(lambda x: x.sum((2, 3)) * (x > 1).any(3).all(2).float().add(0.5)),
}
KINDS = {
    "activations": ACTIVATIONS,
    "convolutions": CONVOLUTIONS,
    "norms": NORMS,
    "poolings": POOLINGS,
    "products": PRODUCTS,
    "reductions": REDUCTIONS,
    "resizes": RESIZES,
    "shapes": SHAPES,
}


class Together(nn.Module):
    """All modules' outputs side by side."""

    def __init__(self, modules):
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, x):
        return torch.cat([part(x).flatten(1) for part in self.parts], 1)


@pytest.mark.parametrize("kind", list(KINDS))
def test_operators_are_pytorchs(kind):
    """In double precision, so that nothing but a wrong formula differs."""
    torch.manual_seed(0)
    modules = KINDS[kind]
    module, x = Together(modules.values()).double().eval(), images().double()
    x.requires_grad_()
    parts = [part(x).flatten(1) for part in modules.values()]
    # Each part weighs the same in the gradient.
    weights = torch.cat(
        [torch.linspace(-1, 1, p.shape[1]) / p.detach().abs().max() for p in parts]
    )
    (expected,) = torch.autograd.grad((torch.cat(parts, 1) * weights).sum(), x)
    graph = raw_graph(module, x.detach())
    with jax.enable_x64(True):
        program, variables = canonical(graph, image_shape=(16, 16, 3))
        variables = _double(program, variables, graph)
        instructions = program_text.read(program.text)

        def f(x):
            out, _ = run(instructions, variables["params"], variables["batch_stats"], x)
            return (out * weights.numpy()).sum(), out

        gradient, out = jax.jit(jax.grad(f, has_aux=True))(nhwc(x))
    place = 0
    for name, part in zip(modules, parts, strict=True):
        found = out[:, place : place + part.shape[1]]
        assert _apart(found, part.detach().numpy()) < 1e-9, name
        place += part.shape[1]
    assert place == program.num_classes
    assert _apart(gradient, nhwc(expected)) < 1e-9


def _double(program, variables, graph):
    """The variables before they were rounded."""
    names = {key: name for name, key in graph.keys.items()}

    def exact(path, leaf):
        key = program.leaves["/".join(entry.key for entry in path)]
        return graph.weights[names[key]]

    return jax.tree_util.tree_map_with_path(exact, variables)


def _apart(found, expected) -> float:
    scale = np.abs(expected).max() + 1e-9
    return float(np.abs(np.asarray(found) - expected).max() / scale)


def test_elementwise_work_is_the_same_with_channels_last():
    """Operands of all axes, of fewer, of one channel each, and numbers."""
    rng = np.random.default_rng(0)
    x = jax.numpy.asarray(rng.normal(size=(2, 3, 4, 5)), "float32")
    shapes = ((3, 1, 1), (1, 3, 1, 1), (2, 3, 1, 1), (5,), (4, 1), ())
    drawn = [rng.normal(size=shape).astype("float32") for shape in shapes]
    operands = [x + 1, *drawn, 0.5]
    for other in operands:
        found = layout.elementwise(OPERATORS["aten.mul.Tensor"], [x, other], {})
        np.testing.assert_array_equal(found, x * other)
        found = layout.elementwise(
            OPERATORS["aten.add.Tensor"], [other, x], {"alpha": 2}
        )
        np.testing.assert_allclose(found, other + 2 * x, rtol=1e-6)
    bias, picked = drawn[0][0, 0, 0], x > 0
    found = layout.elementwise(OPERATORS["aten.where.self"], [picked, x, bias], {})
    np.testing.assert_array_equal(found, np.where(picked, x, bias))


@pytest.mark.parametrize(
    ("op", "args", "last"),
    [
        ("aten.permute.default", [None, [0, 3, 1, 2]], True),
        ("aten.permute.default", [None, [0, -1, 1, 2]], True),
        ("aten.permute.default", [None, [0, 2, 3, 1]], False),
        ("aten.permute.default", [None, [0, 1]], False),
        ("aten.conv2d.default", [], True),
        ("aten.linear.default", [], False),
    ],
)
def test_what_leaves_channels_last(op, args, last):
    assert layout.leaves_channels_last(op, args) == last


def test_activations_between_convolutions_are_not_transposed():
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)
    module = Does(lambda x, f, s: s(F.silu(f(x)) * 0.5).mean((2, 3)), first, second)
    program, variables = canonical(raw_graph(module, images(size=12)))
    text = program_text.read(program.text)
    traced = jax.make_jaxpr(lambda x: run(text, variables["params"], {}, x)[0])(
        nhwc(images(size=12))
    )
    shapes = [e.outvars[0].aval.shape for e in every_equation(traced.jaxpr)
              if e.primitive.name == "logistic"]  # fmt: skip
    assert shapes == [(3, 10, 10, 4)]


def every_equation(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from every_equation(inner)
