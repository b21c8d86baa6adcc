"""Networks of torchvision that PyTorch exports to ONNX, by both of its exporters."""

import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")
torchvision = pytest.importorskip("torchvision")
onnx_models = pytest.importorskip("onnx_models")

from free_jax.interop.onnx_graph import read_onnx  # noqa: E402
from free_jax.interop.programs import canonical  # noqa: E402

pytestmark = pytest.mark.convert

models = torchvision.models
NETWORKS = {
    "mobilenet_v3_small": lambda: models.mobilenet_v3_small(num_classes=7),
    "resnet18": lambda: models.resnet18(num_classes=7),
    "efficientnet_b0": lambda: models.efficientnet_b0(num_classes=7),
    "vit": lambda: models.VisionTransformer(32, 8, 2, 4, 48, 96, num_classes=7),
}


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def network(request):
    """A network with usual weights, images, and logits in double precision."""
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)  # It has no ONNX of the old kind.
    made = NETWORKS[request.param]().eval()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.1)
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        logits = made.double()(images.double()).numpy()
    return request.param, made.float(), images, logits


@pytest.mark.parametrize("batch", ["free", "one"])
@pytest.mark.parametrize("exporter", ["dynamo", "old"])
def test_exported_networks_agree(network, exporter, batch, tmp_path):
    name, made, images, logits = network
    path = tmp_path / "model.onnx"
    example = images if batch == "free" else images[:1]
    said = {"dynamo": False, "input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    if exporter == "dynamo":
        pytest.importorskip("onnxscript")
        shapes = ({0: torch.export.Dim("batch")},)
        said = {"dynamo": True, "optimize": False, "dynamic_shapes": shapes}
    if batch == "one":
        said = {k: v for k, v in said.items() if not k.startswith("dynamic")}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(made, (example,), str(path), **said)
    got = read_onnx(path, inside=tmp_path)
    assert got.fixed_batch == (1 if batch == "one" else None)
    program, variables = canonical(got.graph, batch=got.fixed_batch)
    norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in made.modules())
    # The old exporter folds them into the convolutions.
    found = len(variables["batch_stats"])
    assert found == (norms if exporter == "dynamo" else 0)
    assert ("moments" in program.gives) == bool(found)
    assert "features" in program.gives and program.num_classes == 7
    answer = onnx_models.answer(got, images.numpy().transpose(0, 2, 3, 1))
    error = np.abs(answer - logits).max() / np.abs(logits).max()
    assert error < 1e-4, name
