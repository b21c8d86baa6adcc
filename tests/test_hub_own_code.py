"""Folders of Hugging Face that bring their own code (auto_map): run with consent."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from free_jax.interop import hub
from free_jax.interop.hub import HubOptions

CONFIGURATION = """
from transformers import PretrainedConfig

class TinyConfig(PretrainedConfig):
    model_type = "tiny-of-mine"

    def __init__(self, width=4, slope=0.5, **kwargs):
        super().__init__(**kwargs)
        self.width, self.slope = width, slope
"""
MODELING = """
import os
import pathlib

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from .configuration_tiny import TinyConfig

pathlib.Path(os.environ["FREE_JAX_TEST_RAN"]).touch()


class TinyForImages(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config):
        super().__init__(config)
        self.body = nn.Conv2d(3, config.width, 3, stride=2, padding=1)
        self.head = nn.Linear(config.width, config.num_labels)
        self.post_init()

    def forward(self, pixel_values, labels=None):
        x = nn.functional.leaky_relu(self.body(pixel_values), self.config.slope)
        return ImageClassifierOutput(logits=self.head(x.mean((2, 3))))
"""
CONFIG = {
    "architectures": ["TinyForImages"],
    "model_type": "tiny-of-mine",
    "auto_map": {
        "AutoConfig": "configuration_tiny.TinyConfig",
        "AutoModelForImageClassification": "modeling_tiny.TinyForImages",
    },
    "width": 4,
    "slope": 0.25,
    "id2label": {"0": "cat", "1": "dog", "2": "cow"},
    "image_size": 16,
}
PROCESSOR = {
    "do_resize": True,
    "size": {"height": 16, "width": 16},
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.2, 0.2],
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "resample": 2,
}


def state():
    rng = np.random.default_rng(0)
    shapes = {
        "body.weight": (4, 3, 3, 3),
        "body.bias": (4,),
        "head.weight": (3, 4),
        "head.bias": (3,),
    }
    return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A folder of one such model, and the file that its code makes when it runs."""
    folder, ran = tmp_path / "models" / "mine", tmp_path / "ran"
    folder.mkdir(parents=True)
    (folder / "configuration_tiny.py").write_text(CONFIGURATION)
    (folder / "modeling_tiny.py").write_text(MODELING)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    save_file(state(), folder / "model.safetensors")
    monkeypatch.setenv("FREE_JAX_TEST_RAN", str(ran))
    return folder.parent, ran


def read(models, *trusted, **options):
    (card,) = hub.read_folder(
        models, HubOptions(trust_code=trusted, cache_dir="", **options)
    )
    return card


def digests(models):
    files = sorted((models / "mine").glob("*.py"))
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_consent_is_bound_to_all_files_of_code(models):
    """No package of Hugging Face is needed to refuse."""
    folder, ran = models
    code = digests(folder)
    for bound in ("0" * 64, code["modeling_tiny.py"], code["configuration_tiny.py"]):
        card = read(folder, f"mine@{bound}")
        assert not card.used and not card.consent
        assert "not the one that trust_code is bound to" in card.message
    assert "modeling_tiny.py" in card.message, "the one that is not bound"
    assert not ran.exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"AutoConfig": "someone/else--code.TinyConfig"}, "of a file in this folder"),
        ({"AutoConfig": ["configuration_tiny.TinyConfig"]}, "must be FILE.CLASS"),
        ({"AutoModelForImageClassification": "../up.Tiny"}, "must be FILE.CLASS"),
        ({"AutoModelForImageClassification": "gone.Tiny"}, "no gone.py"),
    ],
)
def test_code_of_elsewhere_is_refused_even_with_consent(models, changed, said):
    folder, ran = models
    config = {**CONFIG, "auto_map": {**CONFIG["auto_map"], **changed}}
    (folder / "mine/config.json").write_text(json.dumps(config))
    card = read(folder, "mine")
    assert not card.used and said in card.message and not ran.exists()


@pytest.mark.convert
@pytest.mark.filterwarnings("ignore")
def test_code_of_a_folder_runs_with_consent_only(models):
    pytest.importorskip("transformers")
    folder, ran = models
    before = sorted(p.name for p in (folder / "mine").rglob("*"))
    card = read(folder)
    assert not card.used and "name mine in trust_code" in card.message
    assert not ran.exists()
    bound = [f"mine@{digest}" for digest in digests(folder).values()]
    for trusted in (["mine"], bound):
        card = read(folder, *trusted, check=True)
        assert card.used, card.message
        assert ran.exists() and card.network_difference < 1e-5
        assert card.consent == {f"mine/{k}": v for k, v in digests(folder).items()}
        assert card.class_names == ("cat", "dog", "cow")
    w = state()
    images = np.random.default_rng(1).uniform(size=(2, 16, 16, 3)).astype(np.float32)
    seen = (images - PROCESSOR["image_mean"]) / PROCESSOR["image_std"]
    x = np.pad(seen, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = w["body.bias"] + sum(
        x[:, i : i + 15 : 2, j : j + 15 : 2] @ w["body.weight"][:, :, i, j].T
        for i in range(3)
        for j in range(3)
    )
    out = np.where(out > 0, out, CONFIG["slope"] * out).mean((1, 2))
    ours = card.network.apply(
        jax.tree.map(jnp.asarray, card.variables), jnp.asarray(images)
    )
    np.testing.assert_allclose(
        ours, out @ w["head.weight"].T + w["head.bias"], 1e-4, 1e-4
    )
    assert sorted(p.name for p in (folder / "mine").rglob("*")) == before
    # Weights that the code does not find would be random ones.
    less = {key: value for key, value in w.items() if key != "head.weight"}
    save_file(less, folder / "mine/model.safetensors")
    card = read(folder, "mine")
    assert not card.used and "the weights lack head.weight" in card.message
