"""18 published classifiers, as they are, by the packages that wrote them."""

import json
import shutil

import numpy as np
import pytest
from conftest import SHARED

from experiments import inspect_zoo
from free_jax.interop import hub
from free_jax.interop.hub import HubOptions
from free_jax.zoo import load_zoo, save_zoo

pytestmark = [pytest.mark.shared, pytest.mark.convert]

TRUSTED = (
    "mobilenetv2-torchscript",
    "shufflenet-whole-module",
    "tinynet-custom-code",
)
# What no file says but a README.
TABLE = """
vgg11_bn-compiled: {mean: 0, std: 1, size: 32}
resnet18-imagenet-example:
  {size: 64, resize_to: 72, crop: true, mean: [0.485, 0.456, 0.406],
   std: [0.229, 0.224, 0.225]}
resnet18-cifar-stem:
  {size: 32, mean: [0.5071, 0.4867, 0.4408], std: [0.2675, 0.2565, 0.2761]}
shufflenet-whole-module:
  {size: 64, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
mobilenetv2-torchscript: {size: 64, mean: 0.5, std: 0.5}
lcnet-onnx-17-batch1: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
resnet10-onnx-20-softmax: {mean: 0.5, std: 0.5, resize_to: [52, 52], crop: 48}
tinynet-custom-code: {code: "model.py:TinyNet", size: 32, channels: BGR, range: 255}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folders as published: without reference.npz."""
    for package in ("torchvision", "timm", "transformers", "onnx"):
        pytest.importorskip(package)
    target = tmp_path_factory.mktemp("hub") / "models"
    ignored = shutil.ignore_patterns("reference.npz", "manifest.*")
    shutil.copytree(SHARED / "hub", target, ignore=ignored)
    return target


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Programs are made once: what one test kept, the next one reads."""
    return tmp_path_factory.mktemp("programs")


def test_most_are_used_without_consent(models):
    cards = hub.read_folder(models, HubOptions(guess=True, cache_dir=""))
    assert len(cards) == 18 and sum(card.used for card in cards) == 15
    assert {c.path for c in cards if not c.used} == set(TRUSTED)


def test_all_are_used_with_consent_and_a_table(models, cache, tmp_path):
    table = tmp_path / "table.yaml"
    table.write_text(TABLE)
    options = HubOptions(table=table, trust_code=TRUSTED, check=True, cache_dir=cache)
    found = hub.survey(models, options)
    by_folder = {card.path: card for card in found.cards}
    manifest = json.loads((SHARED / "hub" / "manifest.json").read_text())
    for truth in manifest:
        card = by_folder[truth["folder"]]
        assert card.used, (card.path, card.message)
        assert card.network.num_classes == truth["num_classes"]
        assert card.network.image_shape[:2] == (truth["input_size"],) * 2
        assert card.preprocessing.crop_offset == truth["crop_offset"], card.path
        scale = card.preprocessing.range
        np.testing.assert_allclose(
            np.array(card.preprocessing.mean) * scale, truth["mean"], atol=1e-6
        )
        np.testing.assert_allclose(
            np.array(card.preprocessing.std) * scale, truth["std"], atol=1e-6
        )
        if card.network_difference is not None:
            assert card.network_difference < 1e-3, card.path
    zoo = hub.zoo_of(found).zoo
    save_zoo(zoo, tmp_path / "zoo")
    assert load_zoo(tmp_path / "zoo").num_teachers == 18


def test_references_beside_the_models(cache, tmp_path):
    """Logits from raw images, as the original preprocessing and framework gave them."""
    for package in ("torchvision", "timm", "transformers", "onnx"):
        pytest.importorskip(package)
    table, found = tmp_path / "table.yaml", tmp_path / "found.json"
    table.write_text(TABLE)
    line = [str(SHARED / "hub"), "--check", f"--json={found}", f"--table={table}"]
    line += ["--no-guess", f"--trust_code={','.join(TRUSTED)}"]
    line += [f"--cache_dir={cache}"]
    assert inspect_zoo.main(line) == 0
    rows = json.loads(found.read_text())
    assert len(rows) == 18
    for row in rows:
        assert row["status"] == "used", row
        assert row["network_difference"] < 1e-3, row
        assert row["reference_difference"] < 0.05, row
