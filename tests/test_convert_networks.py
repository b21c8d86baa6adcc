"""Networks of torchvision, timm and Hugging Face against their originals."""

import os

import jax
import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

from graph_modules import images, nhwc, raw_graph  # noqa: E402
from torch import nn  # noqa: E402

from free_jax.interop.programs import Program, canonical, fill  # noqa: E402
from free_jax.zoo.network import make_network  # noqa: E402

pytestmark = [pytest.mark.convert, pytest.mark.filterwarnings("ignore")]


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(pixel_values=x).logits


def vision(name, **kwargs):
    make = getattr(torchvision.models, name)
    return lambda c: make(weights=None, num_classes=c, **kwargs)


def pytorch_image(name, **kwargs):
    return lambda c: timm.create_model(name, pretrained=False, num_classes=c, **kwargs)


def face(kind, **kwargs):
    def make(classes):
        config = getattr(transformers, f"{kind}Config")(num_labels=classes, **kwargs)
        model = getattr(transformers, f"{kind}ForImageClassification")(config)
        return Logits(model)

    return make


_SWIN = {"img_size": 64, "patch_size": 2, "window_size": 4, "embed_dim": 48}
_SMALL = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 192,
    "image_size": 32,
    "patch_size": 4,
}
_BASIC = {
    "hidden_sizes": [64, 128, 256, 512],
    "depths": [2, 2, 2, 2],
    "layer_type": "basic",
}
# name: (maker, size, whether it has batch norms, whether a linear head)
NETWORKS = {
    "torchvision resnet18": (vision("resnet18"), 32, True, True),
    "torchvision resnet50": (vision("resnet50"), 64, True, True),
    "torchvision mobilenet_v3_small": (vision("mobilenet_v3_small"), 64, True, True),
    "torchvision vgg11_bn": (vision("vgg11_bn"), 32, True, True),
    "torchvision densenet121": (vision("densenet121"), 64, True, True),
    "torchvision efficientnet_b0": (vision("efficientnet_b0"), 64, True, True),
    "torchvision squeezenet1_1": (vision("squeezenet1_1"), 64, False, False),
    "torchvision shufflenet_v2_x0_5": (vision("shufflenet_v2_x0_5"), 64, True, True),
    "torchvision googlenet": (
        vision("googlenet", init_weights=False, aux_logits=False),
        64,
        True,
        True,
    ),
    "torchvision alexnet": (vision("alexnet"), 64, False, True),
    "torchvision mnasnet0_5": (vision("mnasnet0_5"), 64, True, True),
    "torchvision regnet_y_400mf": (vision("regnet_y_400mf"), 64, True, True),
    "timm vit_tiny": (
        pytorch_image("vit_tiny_patch16_224", img_size=64, patch_size=8),
        64,
        False,
        True,
    ),
    "timm convnext_atto": (pytorch_image("convnext_atto"), 64, False, True),
    "timm swin_tiny": (
        pytorch_image(
            "swin_tiny_patch4_window7_224",
            depths=(2, 2, 2),
            num_heads=(2, 4, 8),
            **_SWIN,
        ),
        64,
        False,
        True,
    ),
    "timm mixer_s32": (
        pytorch_image("mixer_s32_224", img_size=64),
        64,
        False,
        True,
    ),
    "timm levit_128s": (pytorch_image("levit_128s", img_size=64), 64, True, False),
    "timm poolformer_s12": (pytorch_image("poolformer_s12"), 64, False, True),
    "timm beit": (
        pytorch_image("beit_base_patch16_224", img_size=64, depth=2, embed_dim=96),
        64,
        False,
        True,
    ),
    "Hugging Face resnet": (face("ResNet", **_BASIC), 32, True, True),
    "Hugging Face vit": (face("ViT", **_SMALL), 32, False, True),
    "Hugging Face deit": (face("DeiT", **_SMALL), 32, False, True),
    "Hugging Face beit": (face("Beit", **_SMALL), 32, False, True),
    "Hugging Face convnext": (
        face("ConvNext", hidden_sizes=[32, 64, 96, 128], depths=[2, 2, 3, 2]),
        64,
        False,
        True,
    ),
    "Hugging Face mobilenet_v2": (face("MobileNetV2", image_size=64), 64, True, True),
    "Hugging Face mobilenet_v1": (face("MobileNetV1", image_size=64), 64, True, True),
    "Hugging Face swin": (
        face(
            "Swin",
            image_size=32,
            patch_size=2,
            window_size=4,
            embed_dim=24,
            depths=[2, 2],
            num_heads=[2, 4],
        ),
        32,
        False,
        True,
    ),
}


def calibrated(make, size: int, classes: int = 10, seed: int = 0) -> nn.Module:
    """A network of random weights whose batch norms have seen noise."""
    torch.manual_seed(seed)
    model = make(classes).eval()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1 and not weight.any():  # a head that starts at zero
                weight.normal_(0, 0.02)
        model(images(16, 3, size, seed=2))
        for layer in norms:
            layer.eval()
            if layer.weight is not None:
                layer.weight.uniform_(0.7, 1.3)
                layer.bias.normal_(0, 0.1)
    return model.eval()


def as_network(program: Program, size: int):
    return make_network(
        "graph",
        num_classes=program.num_classes,
        image_shape=(size, size, 3),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        program=program.text,
        gives=program.gives,
    )


def _apart(found, expected) -> np.ndarray:
    """Largest difference of each image, by its largest value."""
    axes = tuple(range(1, expected.ndim))
    return np.abs(np.asarray(found) - expected).max(axes) / np.abs(expected).max(axes)


def _answers(model, x):
    """Logits, and the gradient of their weighted sum for the images, NHWC."""
    x = x.clone().requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad((logits * torch.linspace(-1, 1, 10)).sum(), x)
    return logits.detach().numpy(), nhwc(gradient)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_network_is_its_original(name):
    """As near to double precision as the original is in single precision.

    Some networks amplify rounding a thousandfold: one ReLU that flips is enough.
    """
    make, size, has_norms, has_head = NETWORKS[name]
    model, x = calibrated(make, size), images(4, 3, size)
    program, variables = canonical(raw_graph(model, x))
    assert ("moments" in program.gives) == has_norms
    assert ("features" in program.gives) == has_head
    assert program.num_classes == 10 and program.output == "logits"
    kind = nn.modules.batchnorm._NormBase
    norms = [m for m in model.modules() if isinstance(m, kind)]
    assert len(variables["batch_stats"]) == len(norms)
    net = as_network(program, size)

    def found(x):
        logits = net.apply(variables, x)
        return (logits * jax.numpy.linspace(-1, 1, 10)).sum(), logits

    gradient, logits = jax.jit(jax.grad(found, has_aux=True))(
        jax.numpy.asarray(nhwc(x))
    )
    theirs = _answers(model, x)
    exact = _answers(model.double(), x.double())
    apart, usual = _apart(logits, exact[0]), _apart(theirs[0], exact[0])
    assert apart.max() < 1e-5 + 5 * usual.max(), (apart, usual)
    # A flip moves an image's gradient by a percent, the original's own too.
    apart, usual = _apart(gradient, exact[1]), _apart(theirs[1], exact[1])
    assert apart.min() < 1e-5 + 5 * usual.min(), (apart, usual)
    assert apart.max() < 0.1


def test_resnets_of_two_libraries_are_one_group():
    x = images(2, 3, 32)
    texts = {
        canonical(raw_graph(NETWORKS[name][0](classes), x))[0].text
        for name in ("torchvision resnet18", "Hugging Face resnet")
        for classes in (5, 10)
    }
    assert len(texts) == 1


@pytest.mark.parametrize("name", ["timm swin_tiny", "torchvision shufflenet_v2_x0_5"])
def test_sibling_is_filled_from_its_state(name):
    make, size, *_ = NETWORKS[name]
    program, _ = canonical(raw_graph(make(10), images(2, 3, size)))
    sibling = make(7).eval()
    state = {key: value.numpy() for key, value in sibling.state_dict().items()}
    variables = fill(program, state, name)
    net = as_network(program._replace(num_classes=7), size)
    x = images(2, 3, size)
    found = net.apply(variables, jax.numpy.asarray(nhwc(x)))
    assert _apart(found, sibling(x).detach().numpy()).max() < 1e-3
