"""A folder of models where a zoo is wanted: in one's own code, and in a run."""

import hub_files
import numpy as np
import pytest

import free_jax as fj
from experiments import inputs
from experiments.inputs.options import DataOptions, ZooOptions
from free_jax.errors import InputError


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    for i in range(2):
        path = folder / f"teacher{i}" / "weights.safetensors"
        path.parent.mkdir(parents=True)
        state = hub_files.conv4_state(seed=i)
        path.write_bytes(hub_files.safetensors_bytes(state))
    return folder


def test_load_zoo_takes_models_and_converted_zoos(models, tmp_path):
    nothing = "none of 2 models can be used.*guesses by HubOptions.guess=True"
    with pytest.raises(InputError, match=nothing) as refused:
        fj.load_zoo(models)
    assert str(refused.value).count("no file says") == 1, "one reason, said once"
    guessed = fj.load_zoo(models, fj.HubOptions(guess=True))
    (models / "teachers.yaml").write_text(hub_files.TABLE)
    zoo = fj.load_zoo(models)
    assert zoo.num_teachers == guessed.num_teachers == 2
    assert zoo.sources == ("teacher0", "teacher1")
    fj.save_zoo(zoo, tmp_path / "zoo")
    again = fj.load_zoo(tmp_path / "zoo")
    assert again.networks == zoo.networks and again.class_names == zoo.class_names
    with pytest.raises(InputError, match=r"no zoo\.json"):
        fj.load_zoo(tmp_path / "nowhere")


def test_a_run_reads_models_once_and_without_data(
    models, tmp_path, capsys, monkeypatch
):
    data = DataOptions(cache_dir=str(tmp_path / "cache"))
    options = ZooOptions(path=str(models))
    nothing = "none of 2 models can be used.*guesses by --config.zoo.guess=True"
    with pytest.raises(InputError, match=nothing):
        inputs.load_zoo(options, data)
    assert capsys.readouterr().err.count("no file says") == 1
    table = tmp_path / "table.yaml"
    table.write_text(hub_files.TABLE)
    options = options._replace(table=str(table))
    zoo = inputs.load_zoo(options, data)
    assert "2 of 2 models are used" in capsys.readouterr().err
    again = inputs.load_zoo(options, data)
    assert not capsys.readouterr().err, "converted once"
    np.testing.assert_array_equal(again.class_ids, zoo.class_ids)
    # What may be guessed is another reading.
    guessed = inputs.load_zoo(ZooOptions(path=str(models), guess=True), data)
    assert guessed.networks != zoo.networks


def test_a_run_says_what_models_need_that_inspection_guesses(models, tmp_path, capsys):
    one = hub_files.TABLE.replace("defaults", "teacher0")
    (models / "teachers.yaml").write_text(one)
    (models / "broken.safetensors").write_bytes(b"{}")
    data = DataOptions(cache_dir=str(tmp_path / "cache"))
    for _ in range(2):
        zoo = inputs.load_zoo(ZooOptions(path=str(models)), data)
    line = capsys.readouterr().out
    assert zoo.num_teachers == 1 and line.count("\n") == 1
    assert (
        "1 model used, 2 left out or read twice: inspect_zoo.py says why; 1 of" in line
    )
    assert "--config.zoo.guess=True allows guesses, teachers.yaml" in line
    # As an earlier version noted it.
    (note,) = (tmp_path / "cache").rglob("left_out.txt")
    note.write_text("2")
    inputs.load_zoo(ZooOptions(path=str(models)), data)
    assert capsys.readouterr().out.endswith("inspect_zoo.py says why\n")
    # As an interrupted write leaves it.
    note.write_text("")
    assert inputs.load_zoo(ZooOptions(path=str(models)), data).num_teachers == 1
    assert not capsys.readouterr().out


def test_a_damaged_file_is_named_once(models):
    (models / "broken.pth").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(InputError) as refused:
        fj.load_zoo(models)
    (reason,) = [x for x in str(refused.value).split("; ") if "broken" in x]
    assert reason.count("broken.pth") == 1, reason


def test_models_that_are_left_out_are_told_of(models):
    (models / "teachers.yaml").write_text(hub_files.TABLE)
    (models / "broken.safetensors").write_bytes(b"{}")
    with pytest.warns(UserWarning, match=r"2 of 3 models are used; left out: broken"):
        assert fj.load_zoo(models).num_teachers == 2


def test_a_network_saves_what_it_gives(tmp_path):
    network = fj.make_network(
        "conv4", num_classes=3, image_shape=(16, 16, 3), gives={"gradients"}
    )
    again = fj.make_network(**network.as_dict())
    assert again == network
