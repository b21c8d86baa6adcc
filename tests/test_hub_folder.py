"""A folder of models becomes cards and a zoo: what is read, from where, what is not."""

import json
import os

import hub_files
import numpy as np
import pytest

from experiments import convert_zoo, inspect_zoo
from free_jax import zoo as fj_zoo
from free_jax.errors import InputError
from free_jax.interop import hub
from free_jax.interop.hub import HubOptions, labels, report
from free_jax.interop.hub.names import for_cell, legible
from free_jax.interop.hub.preprocessing import Preprocessing
from free_jax.interop.hub.processors import processor_facts
from free_jax.interop.hub.reasons import left_out
from free_jax.interop.hub.timm_config import config_facts

STATE = hub_files.conv4_state()


def put(folder, name, state=STATE, metadata=None):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(hub_files.safetensors_bytes(state, metadata))
    return path


def table(folder, text=hub_files.TABLE):
    (folder / "teachers.yaml").write_text(text)


def only(folder, **options):
    cards = hub.read_folder(folder, HubOptions(**options))
    assert len(cards) == 1, [c.path for c in cards]
    return cards[0]


@pytest.mark.parametrize("layout", hub_files.LAYOUTS)
def test_released_conv4_in_every_wrapper_under_any_name(tmp_path, layout):
    torch = pytest.importorskip("torch")
    content = hub_files.wrapped(layout, STATE)
    names = ("best run.ckpt", "pytorch_model.bin", "x.pth.tar", "teacher.pt")
    torch.save(content, tmp_path / names[len(layout) % 4])
    table(tmp_path)
    card = only(tmp_path)
    assert card.used, card.message
    assert card.kind == "released" and card.network.name == "conv4"
    assert card.preprocessing.mean == tuple(hub_files.MEAN)
    assert card.sources["mean"] == "teachers.yaml" and not card.guessed
    if layout.startswith("released"):
        assert card.class_ids == (3, 1, 4, 0, 5)
        assert card.accuracy == pytest.approx(0.8125)


def test_bfloat16_is_the_same_network(tmp_path):
    put(tmp_path, "a/x.safetensors")
    put(tmp_path, "b/y.safetensors", hub_files.as_type(STATE, "bfloat16"))
    table(tmp_path)
    zoo = hub.read_zoo(tmp_path)
    assert len(zoo.groups) == 1 and zoo.num_teachers == 2
    assert zoo.num_classes == 10, "outputs without names are classes of their own"
    assert zoo.class_names[0] == "a#0", zoo.class_names


def test_what_no_file_says_is_guessed_only_if_asked(tmp_path):
    put(tmp_path, "m.safetensors")
    card = only(tmp_path)
    assert not card.used and "size and mean and std" in card.message
    card = only(tmp_path, guess=True)
    assert card.used and set(card.guessed) == {"size", "mean", "std"}
    assert card.preprocessing.size == (32, 32)


def test_released_files_share_their_ids(tmp_path):
    """Once with the names of all classes, once without; no data folder."""
    rng = np.random.default_rng(0)
    for i in range(4):
        ids = rng.permutation(20)[:5].tolist()
        metadata = {"class_ids": json.dumps(ids), "accuracy": "0.75"}
        put(tmp_path, f"pile/model_{i}.safetensors", hub_files.conv4_state(i), metadata)
    table(tmp_path)
    zoo = hub.read_zoo(tmp_path)
    assert len(zoo.groups) == 1 and zoo.num_teachers == 4
    assert all(name.startswith("pile#") for name in zoo.class_names)
    assert len(zoo.class_names) < 20 and zoo.groups[0].accuracy.tolist() == [0.75] * 4
    names = [f"animal {chr(97 + i)}" for i in range(20)]
    table(tmp_path, hub_files.TABLE + f"pile: {{class_names: {names}}}\n")
    named = hub.read_zoo(tmp_path)
    assert set(named.class_names) <= set(names)
    ids = np.asarray(named.groups[0].teachers.class_ids)
    assert [named.class_names[i] for i in ids[0]] == [
        names[i] for i in hub.read_folder(tmp_path)[0].class_ids
    ]


def test_log_and_ids_beside_released_files(tmp_path):
    put(tmp_path, "model_0.safetensors")
    put(tmp_path, "model_1.safetensors", hub_files.conv4_state(1))
    table(tmp_path)
    (tmp_path / "log.tsv").write_text(
        "id\tclass_ids\theld_out_accuracy\n0\t9,8,7,6,5\t0.5\n1\t1,2,3,4,5\t82.0\n"
    )
    good, bad = hub.read_folder(tmp_path)
    assert good.class_ids == (9, 8, 7, 6, 5) and good.accuracy == 0.5
    assert not bad.used and "write fractions, not per cent" in bad.message


def test_equal_files_are_one_model(tmp_path):
    put(tmp_path, "a/model.safetensors")
    put(tmp_path, "a/copy.safetensors")
    put(tmp_path, "b/model.safetensors")
    table(tmp_path)
    first, second = hub.read_folder(tmp_path)
    assert first.used and len(first.files) == 2
    assert not second.used and "same weights as a/" in second.message


def test_names_of_all_kinds_and_those_that_say_nothing(tmp_path):
    names = labels.names_in
    assert names(["a", "b"], "x") == ["a", "b"]
    assert names({"1": "b", "0": "a"}, "x") == ["a", "b"]
    assert names({"0": ["n01", "a"], "1": ["n02", "b"]}, "x") == ["a", "b"]
    assert names({"a": 1, "b": 0}, "x") == ["b", "a"]
    assert names({"a": "b"}, "x") is None and names("text", "x") is None
    with pytest.raises(InputError, match="not 0 to 1"):
        names({"0": "a", "2": "b"}, "x")
    text = labels.names_in_text
    assert text("0 cat\n1 dog\n") == ["cat", "dog"]
    assert text("dog 1\ncat 0\n") == ["cat", "dog"]
    assert text("\ufeffcat\r\ndog\r\n\r\n") == ["cat", "dog"]
    assert text("Speed limit 30\nSpeed limit 50") == [
        "Speed limit 30",
        "Speed limit 50",
    ]
    assert labels.meaningful(["LABEL_0", "LABEL_1"]) is None
    assert labels.meaningful(["0", "class_1", "3"]) is None
    assert labels.meaningful(["cat", "LABEL_1"]) == ("cat", None)
    put(tmp_path, "m.safetensors")
    table(tmp_path)
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    card = only(tmp_path)
    assert card.class_names == tuple("abcde")
    assert card.sources["class_names"] == "labels.txt"
    (tmp_path / "labels.txt").write_text("a\nb\n")
    assert "labels.txt names 2 classes, but the network has 5" in only(tmp_path).message


def test_equal_names_are_one_class_and_the_table_corrects(tmp_path):
    for name, words in (("a", "Palm tree\nbus\nox\nelk\nrat"),
                        ("b", "palm_tree, palm\nBUS\nfig\nfly\nbee")):  # fmt: skip
        put(tmp_path, f"{name}/m.safetensors", hub_files.conv4_state(ord(name)))
        (tmp_path / name / "labels.txt").write_text(words)
    table(tmp_path)
    found = hub.zoo_of(hub.survey(tmp_path))
    assert len(found.zoo.class_names) == 8 and len(found.classes.merged) == 2
    text = report.as_text(hub.read_folder(tmp_path), (), found.classes.merged)
    assert "One class: Palm tree (a: Palm tree, b: palm_tree, palm)" in text
    table(tmp_path, hub_files.TABLE + "classes: {insect: [fly, rat]}\n")
    assert "insect" in hub.read_zoo(tmp_path).class_names


def test_the_table_is_checked_and_points_at_typing_errors(tmp_path):
    put(tmp_path, "m.safetensors")
    for text, message in (
        ("m.safetensors: {meen: [1]}", "did you mean mean?"),
        ("n.safetensors: {size: 32}", "did you mean m.safetensors?"),
        ("defaults: {size: big}", "no number of pixels"),
        ("defaults: {channels: RBG}", "choose among"),
        ("defaults: {range: true}", "choose among"),
        ("defaults: {std: [.nan]}", "a number a channel"),
        ("defaults: [1]", "table of settings"),
        ("classes: 3", "classes must be"),
        ("- 1", "must map paths"),
        ("a: [", "no valid YAML"),
        ("a: !!python/object:os.system {}", "no valid YAML"),
        ("m.safetensors: {code: 3}", "must be text"),
    ):
        table(tmp_path, text)
        with pytest.raises(InputError, match=message) as caught:
            hub.read_folder(tmp_path)
        assert "\n" not in str(caught.value)
    table(tmp_path, "defaults: {size: 32, mean: 0.5, std: [0.1, 0.2]}")
    assert "2 numbers for images of 3 channels" in only(tmp_path).message
    table(tmp_path, "defaults: {size: 64, mean: 0.5, std: 0.5}")
    assert "not 64x64" in only(tmp_path).message


def test_pixels_to_255_and_bgr_by_the_table(tmp_path):
    put(tmp_path, "m.safetensors")
    table(tmp_path, "defaults: {size: 32, channels: BGR, range: 255}")
    card = only(tmp_path)
    assert card.network.bgr and card.network.std == (1 / 255,) * 3
    table(
        tmp_path,
        "defaults: {size: 32, channels: BGR, range: 255, mean: [104, 117, 123],"
        " std: 64}",
    )
    card = only(tmp_path)
    np.testing.assert_allclose(card.network.mean, np.array([123, 117, 104]) / 255)
    text = report.as_table([card])
    assert "mean: [104.0, 117.0, 123.0]" in text and "channels: BGR" in text


def test_a_written_table_gives_the_same_cards(tmp_path):
    models = tmp_path / "models"
    put(models, "a/m.safetensors")
    (models / "a" / "labels.txt").write_text("=1+1\n<b>\n\x1b[31mred\n'q'\nno")
    target, found = tmp_path / "t.yaml", tmp_path / "f.json"
    line = [str(models), f"--write_table={target}", f"--json={found}", "--cache_dir="]
    assert inspect_zoo.main(line) == 0
    first = json.loads(found.read_text())
    assert "# guessed" in target.read_text() and "<" not in found.read_text()
    assert first[0]["class_names"][2] == "\\x1b[31mred"
    assert inspect_zoo.main([*line, f"--table={target}", "--no-guess"]) == 0
    second = json.loads(found.read_text())
    for name in ("mean", "std", "preprocessing", "class_names", "image_shape"):
        assert first[0][name] == second[0][name], name
    assert second[0]["sources"]["mean"] == "t.yaml"


def test_json_has_the_fields_that_are_promised(tmp_path, capsys):
    put(tmp_path, "m/a.safetensors")
    (tmp_path / "m" / "b.h5").write_bytes(b"\x89HDF")
    found = tmp_path.parent / f"{tmp_path.name}.json"
    assert inspect_zoo.main([str(tmp_path), f"--json={found}", "--cache_dir="]) == 0
    used, refused = json.loads(found.read_text())
    for name in ("path", "status", "kind", "num_classes", "class_names", "image_shape",
                 "mean", "std", "preprocessing", "sources", "network_difference",
                 "reference_difference", "gives", "message"):  # fmt: skip
        assert name in used and name in refused
    assert used["status"] == "used" and refused["status"] == "refused"
    assert set(used["preprocessing"]) == {
        *("resize_to", "crop", "crop_offset", "resample", "channels", "range")
    }
    assert used["image_shape"] == [32, 32, 3] and used["class_names"] is None
    out = capsys.readouterr().out
    assert "1 of 2 models are used" in out and "Keras" in out


def test_convert_needs_no_data_set_and_guesses_only_if_asked(tmp_path, capsys):
    models, target = tmp_path / "models", tmp_path / "zoo"
    put(models, "m.safetensors")
    line = [f"--source={models}", f"--target={target}", "--cache_dir="]
    assert convert_zoo.main(line) == 2
    said = capsys.readouterr().err
    assert "teachers.yaml" in said and "0 of 1 model is used" in said
    reason = hub.read_folder(models, HubOptions(cache_dir=""))[0].message
    assert said.count(reason[:40]) == 1, "once is enough"
    assert "allow guesses by --guess" in said
    assert convert_zoo.main([*line, "--guess"]) == 0
    zoo = fj_zoo.load_zoo(target)
    assert zoo.num_teachers == 1 and zoo.sources == ("m.safetensors",)
    inside = [f"--source={models}", f"--target={models / 'zoo'}"]
    assert convert_zoo.main([*inside, "--guess"]) == 2
    assert sorted(p.name for p in models.iterdir()) == ["m.safetensors"]


def test_a_reason_that_many_share_is_said_once(tmp_path, capsys):
    for i in range(6):
        put(tmp_path, f"m{i}.safetensors", hub_files.conv4_state(seed=i))
        (tmp_path / f"t{i}.safetensors").write_bytes(b"\0" * (3 + i))
    found = tmp_path.parent / f"{tmp_path.name}.json"
    line = [str(tmp_path), f"--json={found}", "--cache_dir=", "--no-guess"]
    assert inspect_zoo.main(line) == 2
    out = capsys.readouterr().out
    names = "m0.safetensors, m1.safetensors, m2.safetensors and 3 more"
    assert f"  6 models ({names}): no file says its size" in out
    assert out.count("no file says") == 1 and "0 of 12 models are used" in out
    cards = json.loads(found.read_text())
    assert len(cards) == 12 and all("no file says" in c["message"] for c in cards[:6])


def test_reasons_are_one_but_for_the_name_of_the_model():
    cards = [
        hub.Card(f"a/{i}.pth", "checkpoint", f"{i}.pth: bad; name a/{i}.pth ({why})")
        for i, why in enumerate(("x", "x", "y"))
    ]
    assert left_out(cards) == [
        "2 models (a/0.pth, a/1.pth): MODEL: bad; name MODEL (x)",
        "a/2.pth (checkpoint): bad; name a/2.pth (y)",
    ]


def test_reasons_that_differ_in_numbers_are_one_and_the_commonest_comes_first():
    words = ["is no model", *(f"{n} labels, {n + 1} outputs" for n in range(5, 8))]
    cards = [hub.Card(f"{i}.pth", "checkpoint", why) for i, why in enumerate(words)]
    first, second = left_out(cards)
    assert first == (
        "3 models (1.pth, 2.pth, 3.pth), alike but for names or numbers: 5 labels, 6 "
        "outputs"
    )
    assert second.startswith("0.pth (checkpoint): is no model")


def test_models_that_rest_on_guesses_are_counted_apart(tmp_path, capsys):
    put(tmp_path, "a.safetensors")
    put(tmp_path, "b.safetensors", hub_files.conv4_state(seed=1))
    entry = {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    table(tmp_path, json.dumps({"a.safetensors": entry}))
    assert inspect_zoo.main([str(tmp_path), "--cache_dir="]) == 0
    out = capsys.readouterr().out
    told = "2 of 2 models are used, 1 of them with guessed preprocessing (size, mean, "
    assert told in out and "zoo.guess=True" in out.splitlines()[-1]
    assert inspect_zoo.main([str(tmp_path), "--cache_dir=", "--no-guess"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("1 of 2 models are used\n")
    with pytest.warns(UserWarning, match="1 of 2 models are used; left out: b"):
        hub.load_zoo(tmp_path, HubOptions(cache_dir=""))


def test_a_folder_that_cannot_be_written_is_read(tmp_path):
    put(tmp_path, "a/m.safetensors")
    table(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    for path in (tmp_path / "a", tmp_path):
        os.chmod(path, 0o555)
    try:
        assert only(tmp_path).used
    finally:
        for path in (tmp_path, tmp_path / "a"):
            os.chmod(path, 0o755)
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}


def test_preprocessors_of_hugging_face():
    def facts(**config):
        return {k: f.value for k, f in processor_facts(config, "p.json").items()}

    old = facts(feature_extractor_type="ViTFeatureExtractor", size=32, resample=2,
                image_mean=[0.5] * 3, image_std=[0.5] * 3)  # fmt: skip
    assert old["size"] == (32, 32) and old["range"] == 1 and not old["crop"]
    plain = facts(image_processor_type="ViTImageProcessor", do_normalize=False,
                  image_mean=[0.4] * 3, image_std=[0.2] * 3)  # fmt: skip
    assert plain["mean"] == (0, 0, 0) and plain["std"] == (1, 1, 1)
    assert plain["size"] == (224, 224)
    convnext = facts(image_processor_type="ConvNextImageProcessorFast",
                     size={"shortest_edge": 64}, crop_pct=0.875)  # fmt: skip
    assert convnext["resize_to"] == 73 and convnext["size"] == (64, 64)
    assert convnext["crop"] and convnext["resample"] == "bicubic"
    warped = facts(image_processor_type="ConvNextImageProcessor",
                   size={"shortest_edge": 384})  # fmt: skip
    assert warped["resize_to"] == (384, 384) and not warped["crop"]
    cropped = facts(
        image_processor_type="MobileNetV2ImageProcessor",
        size={"shortest_edge": 72},
        crop_size={"height": 64, "width": 64},
    )
    assert cropped["size"] == (64, 64) and cropped["resize_to"] == 72
    seen = Preprocessing((64, 64), 71, True, "down")
    assert seen.crop_offset == 3 and seen._replace(crop_rounds="even").crop_offset == 4
    raw = facts(do_rescale=False, image_mean=[127.5], image_std=[127.5])
    assert raw["range"] == 255 and raw["mean"] == (127.5,)
    signed = facts(rescale_factor=1 / 127.5, rescale_offset=True, do_normalize=False)
    np.testing.assert_allclose([signed["mean"][0], signed["std"][0]], 0.5)
    bgr = facts(image_processor_type="MobileViTImageProcessor")
    assert bgr["channels"] == "BGR" and bgr["mean"] == (0, 0, 0)
    for bad in ({"size": "x"}, {"size": {"height": 2}}, {"image_mean": ["a"]},
                {"resample": 77}, {"crop_pct": 0, "image_processor_type":
                 "ConvNextImageProcessor", "size": {"shortest_edge": 9}}):  # fmt: skip
        with pytest.raises(InputError, match=r"p\.json"):
            facts(**bad)


def test_config_of_timm():
    config = {
        "pretrained_cfg": {
            "input_size": [3, 48, 48],
            "crop_pct": 0.95,
            "interpolation": "bicubic",
            "mean": [0.1] * 3,
            "std": [0.2] * 3,
        }
    }
    found = {k: f.value for k, f in config_facts(config, "config.json").items()}
    assert found["resize_to"] == 50 and found["size"] == (48, 48)
    assert found["crop_rounds"] == "even" and found["resample"] == "bicubic"


def test_names_of_strangers_are_shown_as_text():
    assert legible("a\x00b\u202ec\ud800") == "a\\x00b\\u202ec\\ud800"
    assert for_cell("@SUM(1)") == "'@SUM(1)"
    assert len(legible("x" * 999)) == 200
