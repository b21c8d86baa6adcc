"""The lines of `make demo`, at the smallest size: models in, pictures told apart."""

import json
import pathlib
import re
import shlex

import numpy as np
import pytest
from PIL import Image

import free_jax as fj
from experiments import classify, draw_pictures, pretrain_zoo, train
from experiments.data import procedural
from experiments.inputs import command_line

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Less than the smoke variants: what is tested is the way, not the learning.
LESS = {
    "demo_teachers.py": [
        "--config.data.image_size=16",
        "--config.pretrain.batch_size=256",
    ],
    "demo.py": [
        "--config.student.kwargs.width=4",
        "--config.num_steps=2",
        "--config.recover.images_per_teacher=4",
        "--config.recover.inversion.num_steps=1",
    ],
    "draw_pictures.py": ["--per_class=5"],
}


def lines(folder, second):
    """Script and arguments of each line of `make demo`, writing into `folder`."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (rule,) = re.findall(r"^demo:.*\n((?:\t.*\n)+)", text, re.M)
    rule = rule.replace("$(DEMO)", str(folder)).replace("network=resnet10", second)
    for line in rule.strip().split("\n"):
        _, script, *arguments = shlex.split(line)
        yield pathlib.Path(script).name, arguments


def run(script, arguments):
    if script == "run.py":
        (file,) = {a for a in arguments if a.startswith("--config=")}
        small = file + (",smoke" if ":" in file else ":smoke")
        less = LESS[file.rpartition("/")[2].partition(":")[0]]
        argv = [script, *(small if a == file else a for a in arguments), *less]
        command = command_line.parse(argv)
        main = {"pretrain": pretrain_zoo.main, "meta_train": train.main}
        return main[command.config.run](command.config, command.workdir)
    main = {"draw_pictures.py": draw_pictures.main, "classify.py": classify.main}
    assert main[script]([*arguments, *LESS.get(script, [])]) == 0
    return None


@pytest.mark.slow
@pytest.mark.parametrize("second", ["conv4", "resnet10"])
def test_the_lines_of_the_demo(second, tmp_path, monkeypatch, capsys):
    def read_no_image(*args, **kwargs):
        raise AssertionError("the images are forgotten")

    todo = list(lines(tmp_path, f"network={second}"))
    assert len(todo) == 6
    for script, arguments in todo:
        with monkeypatch.context() as patch:
            if "--config=experiments/configs/demo.py" in arguments:
                patch.setattr(procedural, "_draw", read_no_image)
            run(script, arguments)
    zoos = [fj.load_zoo(tmp_path / name / "zoo") for name in ("five", "four", "seven")]
    assert [z.way for z in zoos] == [5, 4, 7]
    assert {z.networks[0].name for z in zoos} == {"conv4", second}
    network, _, notes = fj.load_model(tmp_path / "model" / "model.npz")
    assert network.num_classes == 2 * (5 + 4 + 7) and notes["algorithm"] == "panel"
    assert json.loads((tmp_path / "model" / "result.json").read_text())["results"] == {}
    # New classes, three pictures of each to learn from and two to tell.
    told = json.loads((tmp_path / "predictions.json").read_text())
    assert tuple(told["classes"]) == procedural.class_names("test")
    assert np.sum(told["confusion"], 1).tolist() == [2] * 8
    assert "accuracy" in capsys.readouterr().out


def test_pictures_are_those_of_the_split_and_are_not_mixed(tmp_path, capsys):
    line = [f"--target={tmp_path}", "--split=val", "--support=2", "--per_class=3"]
    assert draw_pictures.main([*line, "--size=16"]) == 0
    drawn = procedural.make_split("val", images_per_class=3, image_size=16)
    for name, images in zip(drawn.class_names, drawn.images, strict=True):
        for i, part in enumerate(("support", "support", "pictures")):
            written = Image.open(tmp_path / part / name / f"{i:03}.png")
            np.testing.assert_array_equal(np.asarray(written), images[i])
    assert len(list(tmp_path.rglob("*.png"))) == 3 * 8
    assert draw_pictures.main([*line, "--size=16"]) == 0, "the same once more"
    capsys.readouterr()
    for changed, message in [
        (["--support=1"], "would be mixed"),
        (["--support=3"], "--support=3 of --per_class=3"),
        (["--size=0"], "image_size=0"),
        ([f"--target={tmp_path}/pictures/{drawn.class_names[0]}/002.png"], "written"),
    ]:
        assert draw_pictures.main([*line, *changed]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("error: ")
        assert message in said.err and said.err.count("\n") == 1
