"""Bad input: one clear line each, the others go on, nothing is run or left."""

import hashlib
import json
import os
import zipfile

import hub_files
import numpy as np
import pytest

from experiments import inspect_zoo
from free_jax.errors import InputError
from free_jax.interop import hub
from free_jax.interop.hub import HubOptions

STATE = hub_files.conv4_state()


def put(path, state=STATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(hub_files.safetensors_bytes(state))


def good(folder):
    put(folder / "good" / "m.safetensors")
    (folder / "teachers.yaml").write_text(hub_files.TABLE)


def refused(folder, **options):
    """Messages of what is left out, by path; the good model is used all the same."""
    cards = hub.read_folder(folder, HubOptions(**options))
    assert sum(card.used for card in cards) == 1
    found = {card.path: card.message for card in cards if not card.used}
    for message in found.values():
        assert message and "\n" not in message and "Traceback" not in message
    return found


def config(folder, **values):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))


def test_folders_of_no_models(tmp_path, capsys):
    with pytest.raises(InputError, match="holds no models"):
        hub.read_folder(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        hub.read_folder(tmp_path / "missing")
    (tmp_path / "README.md").write_text("x")
    (tmp_path / ".hidden").write_text("beside it, not in it")
    with pytest.raises(InputError, match=r"README.md: is no model; expected"):
        hub.read_folder(tmp_path / "README.md")
    assert inspect_zoo.main([str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and not captured.out


def test_other_things_that_hubs_hold(tmp_path):
    good(tmp_path)
    kernel = np.ones((4, 3, 3, 3), np.float32)
    for name, cls in (
        ("detector", "DetrForObjectDetection"),
        ("segments", "SegformerForSemanticSegmentation"),
        ("text", "BertForSequenceClassification"),
        ("backbone", "ViTModel"),
        ("clip", "CLIPModel"),
    ):
        config(tmp_path / name, architectures=[cls], model_type="x")
        put(tmp_path / name / "model.safetensors")
    config(tmp_path / "lora", base_model_name_or_path="x")
    os.rename(tmp_path / "lora/config.json", tmp_path / "lora/adapter_config.json")
    put(tmp_path / "lora/adapter_model.safetensors")
    put(tmp_path / "lora2/x.safetensors", {"l.lora_A.weight": kernel})
    put(tmp_path / "rcnn/x.safetensors", {"backbone.conv.weight": kernel,
        "roi_heads.box.weight": kernel})  # fmt: skip
    put(tmp_path / "vector/x.safetensors", {"a": np.ones(3, np.float32)})
    config(tmp_path / "empty", architectures=["ViTForImageClassification"])
    config(tmp_path / "tf", architectures=["ViTForImageClassification"])
    (tmp_path / "tf/tf_model.h5").write_bytes(b"\x89HDF")
    (tmp_path / "keras.keras").write_bytes(b"PK")
    (tmp_path / "all.zip").write_bytes(b"PK")
    (tmp_path / "fastai.pkl").write_bytes(b"\x80\x02")
    config(tmp_path / "broken", a=1)
    (tmp_path / "broken/config.json").write_text("{")
    put(tmp_path / "broken/model.safetensors")
    found = refused(tmp_path)
    for name, message in (
        ("detector", "is a detector"),
        ("segments", "is a segmentation model"),
        ("text", "is a text model"),
        ("backbone", "backbone without a classifier"),
        ("clip", "images and texts"),
        ("lora", "is an adapter"),
        ("lora2", "is an adapter|convert"),
        ("empty", "no weights"),
        ("tf", "another framework alone"),
        ("keras.keras", "Keras"),
        ("all.zip", "unpack it"),
        ("fastai.pkl", "pickled objects"),
        ("broken", "no valid JSON"),
        ("rcnn", "is a detector"),
        ("vector", "no layer of weights"),
    ):
        import re

        assert re.search(message, found.pop(name)), name
    assert not found


def test_config_that_contradicts_the_weights(tmp_path):
    good(tmp_path)
    bias = {"classifier.weight": np.ones((4, 8), np.float32),
            "classifier.bias": np.ones(4, np.float32)}  # fmt: skip
    config(
        tmp_path / "vit",
        architectures=["ViTForImageClassification"],
        model_type="vit",
        id2label={"0": "a", "1": "b"},
    )
    put(tmp_path / "vit/model.safetensors", bias)
    assert "names 2 classes, but the weights have 4" in refused(tmp_path)["vit"]


def test_missing_shards_and_links_that_leave_the_folder(tmp_path):
    models = tmp_path / "models"
    good(models)
    put(tmp_path / "secret.safetensors", hub_files.conv4_state(5))
    (models / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (models / "all").symlink_to(tmp_path)
    (models / "dangling.pth").symlink_to(tmp_path / "nowhere")
    (models / "loop").symlink_to(models / "loop")
    put(models / "a/m-00001-of-00002.safetensors")
    (models / "b").mkdir()
    (models / "b/m.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "../../secret.safetensors"}})
    )
    put(models / "c/m-00001-of-00002.safetensors")
    (models / "c/m.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "m-00002-of-00002.safetensors"}})
    )
    found = refused(models)
    assert "no index" in found["a"]
    assert "only files beside the index" in found["b"]
    assert "are missing" in found["c"]
    notes = " ".join(hub.survey(models).notes)
    assert "link.safetensors is a link out of the folder" in notes
    assert "all is a link out of the folder" in notes
    assert "dangling.pth is a link to nothing" in notes
    (models / "good/inside.safetensors").symlink_to(models / "good/m.safetensors")
    assert len(refused(models)) == 3, "a link inside the folder is followed"
    (models / "teachers.yaml").unlink()
    (models / "teachers.yaml").symlink_to(tmp_path / "secret.yaml")
    (tmp_path / "secret.yaml").write_text(hub_files.TABLE)
    with pytest.raises(InputError, match="leads out"):
        hub.read_folder(models)


def test_left_behind_entries_are_counted(tmp_path):
    good(tmp_path)
    for name in ("__MACOSX", ".ipynb_checkpoints", ".git"):
        put(tmp_path / name / "m.safetensors")
    put(tmp_path / "good" / "._m.safetensors")
    (tmp_path / "good" / "optimizer.pt").write_bytes(b"x")
    found = hub.survey(tmp_path)
    assert len(found.cards) == 1 and found.cards[0].path == "good"
    assert "4 hidden or left-behind entries passed over" in found.notes
    assert any("optimizer" in note for note in found.notes)


def test_weights_that_are_not_finite_or_incomplete(tmp_path):
    good(tmp_path)
    put(tmp_path / "nan.safetensors",
        STATE | {"trunk.5.weight": STATE["trunk.5.weight"] * np.nan})  # fmt: skip
    put(tmp_path / "part.safetensors",
        {k: v for k, v in STATE.items() if "trunk.2" not in k})  # fmt: skip
    found = refused(tmp_path)
    assert "finite" in found["nan.safetensors"]
    assert "trunk.2" in found["part.safetensors"]


def test_strange_names_are_escaped(tmp_path, capsys):
    good(tmp_path)
    put(tmp_path / "=cmd()\x1b[31m\n<b>.safetensors", hub_files.conv4_state(3))
    (tmp_path / "\x07.pth").write_bytes(b"")
    assert inspect_zoo.main([str(tmp_path), "--cache_dir="]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out and "\\x1b" in out
    found = tmp_path.parent / f"{tmp_path.name}.json"
    inspect_zoo.main([str(tmp_path), f"--json={found}", "--cache_dir="])
    text = found.read_text()
    assert "\x1b" not in text and "<b>" not in text and len(json.loads(text)) == 3
    capsys.readouterr()


CODE = """
import pathlib, torch
pathlib.Path(r"{trace}").write_text("ran")
class Net(torch.nn.Module):
    def __init__(self, num_classes=3, width=4):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, width, 3, padding=1)
        self.fc = torch.nn.Linear(width, num_classes)
    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))
"""


def own_code(tmp_path):
    """A model with its code beside it; code that leaves a trace when it runs."""
    torch = pytest.importorskip("torch")
    models, trace = tmp_path / "models", tmp_path / "trace"
    good(models)
    (models / "own").mkdir()
    source = CODE.format(trace=trace)
    (models / "own/model.py").write_text(source)
    space: dict = {}
    exec(source, space)
    torch.save(space["Net"](5).state_dict(), models / "own/w.pth")
    trace.unlink()
    return models, trace, hashlib.sha256(source.encode()).hexdigest()


def test_code_runs_with_consent_alone(tmp_path):
    models, trace, digest = own_code(tmp_path)
    table = models / "teachers.yaml"
    table.write_text(hub_files.TABLE + 'own: {code: "model.py:Net"}\n')
    message = refused(models)["own"]
    assert "never run" in message and "trust_code" in message and not trace.exists()
    wrong = refused(models, trust_code=("own@" + "0" * 64,))["own"]
    assert "not the one" in wrong and not trace.exists()
    for value in ("*", "all", "good2", "."):
        with pytest.raises(InputError, match="trust_code"):
            hub.read_folder(models, HubOptions(trust_code=(value,)))
    assert not trace.exists()
    for trust in ("own", f"own@{digest}", "own/w.pth"):
        cards = hub.read_folder(models, HubOptions(trust_code=(trust,)))
        card = next(card for card in cards if card.path == "own")
        assert card.used, card.message
        assert card.consent == {"own/model.py": digest} and trace.exists()
    assert card.network.num_classes == 5 and card.network.name == "graph"
    assert not list(models.rglob("__pycache__"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("model.py:Other", "no class 'Other'"),
        ("model.py:Net(width=7)", "fit no class"),
        ("model.py:Net(__import__('os'))", "must be Class"),
        ("../model.py:Net", "no such file|leads out"),
        ("/etc/passwd:x", "must be FILE.py"),
    ],
)
def test_code_that_the_table_misnames(tmp_path, code, message):
    import re

    models, _, _ = own_code(tmp_path)
    (models / "teachers.yaml").write_text(
        hub_files.TABLE + f'own: {{code: "{code}"}}\n'
    )
    assert re.search(message, refused(models, trust_code=("own",))["own"])


def test_whole_modules_and_torchscript_say_what_they_are(tmp_path):
    torch = pytest.importorskip("torch")
    good(tmp_path)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("m/code/__torch__.py", "")
        archive.writestr("m/constants.pkl", b"")
    found = refused(tmp_path)
    assert "whole pickled module" in found["whole.pt"]
    assert "TorchScript" in found["script.pt"]
    kinds = {card.path: card.kind for card in hub.read_folder(tmp_path)}
    assert kinds["whole.pt"] == "module" and kinds["script.pt"] == "torchscript"


def test_a_whole_module_with_consent(tmp_path):
    torch = pytest.importorskip("torch")
    good(tmp_path)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1),
                              torch.nn.Flatten(), torch.nn.Linear(4, 5))  # fmt: skip
    torch.save(net, tmp_path / "whole.pt")
    options = HubOptions(trust_code=("whole.pt",), check=True)
    card = next(c for c in hub.read_folder(tmp_path, options) if c.path == "whole.pt")
    assert card.used, card.message
    assert card.kind == "module" and len(card.consent) == 1
    assert card.network_difference < 1e-5
