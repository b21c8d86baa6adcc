"""The examples of README and of docs run as they stand; `test_docs` has the rest."""

import functools
import re

import hub_files
import jax
import numpy as np
import pages
import pytest
import toy

import free_jax as fj

EXAMPLES = pages.examples()
PANEL, FIVE, MODELS = EXAMPLES["panel"], EXAMPLES["five"], EXAMPLES["models"]
# The same panel, smaller.
LESS = {
    "images_per_class=40": "images_per_class=1",
    "dead_leaves=10000": "dead_leaves=8",
    "num_steps=8000": "num_steps=2",
    "(32, 32, 3)": "(16, 16, 3)",
}


def statements(code):
    """Lines without imports; a call folded over lines for reading is one."""
    body = [line for line in code.splitlines() if line and "import" not in line]
    return re.sub(r"\(\n.*?\n\)", "()", "\n".join(body), flags=re.S).split("\n")


def run(code, **names):
    exec(compile(code, "example", "exec"), names)
    return names


def smaller(code, changes):
    """The code with less to do; what is replaced must be there."""
    for given, less in changes.items():
        assert given in code
        code = code.replace(given, less)
    return code


def test_every_block_of_python_is_run():
    run_here = {"panel", "distilled", "five", "models", "readme", "short", "classify"}
    assert set(EXAMPLES) == run_here
    for page, text in pages.pages().items():
        blocks = [
            code for _, kind, code in pages.FENCE.findall(text) if kind == "python"
        ]
        # Those pages are run by tests/test_how_to.py.
        if not page.startswith("docs/how_to/add_"):
            assert len(blocks) == len(pages.EXAMPLE.findall(text)), page


@pytest.fixture
def demo_zoo(tmp_path, monkeypatch):
    """``demo_zoo(size)``: four untrained teachers where the demo leaves its own."""
    monkeypatch.chdir(tmp_path)

    def save(size):
        shape = (size, size, 3)
        network = fj.make_network("conv4", num_classes=5, image_shape=shape, width=4)
        variables = toy.random_teachers(network, 4).variables
        # Nobody contradicts anybody: they know different classes.
        ids = jax.numpy.arange(20, dtype=jax.numpy.int32).reshape(4, 5)
        teachers = fj.Teachers(variables, ids)
        group = fj.ZooGroup(network, teachers, np.full(4, np.nan))
        zoo = fj.Zoo((group,), tuple("abcdefghijklmnopqrst"))
        fj.save_zoo(zoo, tmp_path / "runs" / "demo" / "five" / "zoo")
        return zoo

    return save


def test_example_of_the_panel(demo_zoo, tmp_path):
    assert len(statements(PANEL)) < 10
    demo_zoo(16)
    run(smaller(PANEL, LESS))
    network, variables, _ = fj.load_model(tmp_path / "student.npz")
    assert network.num_classes == 4 * 5 and "descriptions" in variables


@pytest.mark.parametrize("width", [8, pytest.param(64, marks=pytest.mark.slow)])
def test_example_of_five(demo_zoo, monkeypatch, capsys, width):
    narrow = functools.partial(fj.models.Generator, width=width)
    monkeypatch.setattr(fj.models, "Generator", narrow)
    assert len(statements(FIVE)) < 10
    found = run(FIVE, jax=jax, fj=fj, zoo=demo_zoo(32))
    assert capsys.readouterr().out == "(3, 20, 32, 32, 3) (3, 20)\n"
    assert bool(found["info"].is_finite.all())


def test_front_page_makes_and_uses_a_model(demo_zoo, tmp_path):
    zoo = demo_zoo(16)
    fj.save_zoo(zoo, tmp_path / "MODELS")
    options = "fj.panel.RecoverOptions(images_per_class=1, dead_leaves=8)"
    code = smaller(
        EXAMPLES["readme"],
        {
            "PanelOptions()": f"PanelOptions({options})",
            "num_steps=8000": "num_steps=2",
            "(32, 32, 3)": "(16, 16, 3)",
        },
    )
    images = jax.random.uniform(jax.random.key(0), (10, 16, 16, 3))
    labels = np.arange(5)
    found = run(code, support_images=images[:5], support_labels=labels, pictures=images)
    assert found["scores"].shape == (10, 5)
    np.testing.assert_array_equal(found["scores"].argmax(-1)[:5], labels)


@pytest.mark.parametrize("name", ["distilled", "short", "classify"])
def test_example_of_a_distilled_model(name, tmp_path, monkeypatch):
    images = jax.random.uniform(jax.random.key(0), (20, 32, 32, 3))
    arch = fj.make_network("conv4", num_classes=3 * 5, image_shape=(32, 32, 3), width=2)
    variables = fj.distilled.fit_statistics(
        arch,
        jax.jit(arch.init)(jax.random.key(1)),
        images,
        weights=jax.numpy.ones(3),
        temperature=2.0,
    )
    file = tmp_path / "runs" / "demo" / "model" / "model.npz"
    file.parent.mkdir(parents=True)
    fj.save_model(file, arch, variables)
    monkeypatch.chdir(tmp_path)
    found = run(
        EXAMPLES[name],
        jax=jax,
        fj=fj,
        support_images=images[:5],
        support_labels=jax.numpy.arange(5),
        query_images=images[:5],
        pictures=images[:5],
    )
    made = ("scores", "scores_of_adapted", "predictions")
    made = [found[key] for key in made if key in found]
    assert len(made) == (2 if name == "distilled" else 1)
    # The support images themselves: each is closest to itself.
    for scores in made:
        np.testing.assert_array_equal(scores.argmax(-1), np.arange(5))


def test_example_of_a_folder_of_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = tmp_path / "MODELS"
    models.mkdir()
    state = hub_files.conv4_state()
    (models / "one.safetensors").write_bytes(hub_files.safetensors_bytes(state))
    (models / "teachers.yaml").write_text(hub_files.TABLE)
    assert run(MODELS, fj=fj)["zoo"].num_teachers == 1
