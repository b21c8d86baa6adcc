"""A student may be any network: with or without batch norm, of images of any size."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from experiments.evaluation import final, selection
from experiments.evaluation.options import EvalOptions
from experiments.inputs import command_line
from free_jax import load_model, save_model
from free_jax.algorithms import episodic
from free_jax.errors import InputError
from free_jax.fewshot import evaluation, replay
from free_jax.fewshot.learners import maml, protonet
from free_jax.panel import model as distilled
from free_jax.zoo.network import GIVES, make_network

SMALL = {
    "vit": {"patch": 8, "dim": 8, "depth": 1, "heads": 2, "expansion": 2},
    "convnext": {"patch": 4, "widths": [4, 8], "depths": [1, 1], "kernel": 3},
    "resnet12": {"widths": [4, 4, 4, 4]},
    "conv4": {"width": 4},
}
ALONE = ("vit", "convnext")  # Without batch norm.
names = pytest.mark.parametrize("name", SMALL)


def network(name, side=20, way=toy.WAY):
    return make_network(
        name, num_classes=way, image_shape=(side, side + 2, 3), **SMALL[name]
    )


@functools.cache
def student(name):
    """A network for images of 20 x 22 pixels and its variables."""
    made = network(name)
    return made, jax.jit(made.init)(jax.random.key(0))


def images(count, side=20):
    rng = np.random.default_rng(count)
    return jnp.asarray(rng.uniform(size=(count, side, side + 2, 3)), jnp.float32)


@names
def test_it_takes_images_of_any_size_and_says_what_it_gives(name):
    made, variables = student(name)
    said, features = jax.jit(
        lambda v, x: (made.apply(v, x), made.apply(v, x, features=True))
    )(variables, images(3))
    assert said.shape == (3, toy.WAY) and np.isfinite(said).all()
    np.testing.assert_allclose(
        made.head(variables["params"], features), said, rtol=1e-4, atol=1e-5
    )
    assert made.gives == (GIVES - {"moments"} if name in ALONE else GIVES)
    assert hash(made) == hash(network(name))
    described = json.loads(json.dumps(made.as_dict()))
    assert make_network(**described) == made
    if name in ALONE:
        alone = jax.jit(functools.partial(made.apply, norm="batch"))(
            variables, images(3)[:1]
        )
        np.testing.assert_allclose(alone, said[:1], rtol=1e-4, atol=1e-5)


@names
def test_it_computes_in_the_type_that_it_is_told(name):
    made, variables = student(name)
    half = make_network(**{**made.as_dict(), "dtype": "bfloat16"})
    text = str(jax.make_jaxpr(half.apply)(variables, images(2)))
    wide = re.findall(r"f32\[2(?:,\d+)*\] = dot_general", text)
    assert len(wide) == 1, wide  # The head's.
    found, wanted = jax.jit(lambda v, x: (half.apply(v, x), made.apply(v, x)))(
        variables, images(2)
    )
    np.testing.assert_allclose(found, wanted, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("name", ALONE)
def test_every_pixel_counts(name):
    """Also those that padding is added to."""
    made, variables = student(name)
    grads = jax.jit(jax.grad(lambda x: made.apply(variables, x)[0, 0]))(images(1))
    assert (np.abs(np.asarray(grads)).sum(-1) > 0).mean() > 0.99


# What adapts matters to the learner, tested elsewhere; which network, to its gradients.
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param("vit", "maml", marks=pytest.mark.slow),
        ("vit", "anil"),
        ("vit", "protonet"),
        pytest.param("convnext", "maml", marks=pytest.mark.slow),
        pytest.param("resnet12", "maml", marks=pytest.mark.slow),
        pytest.param("resnet12", "protonet", marks=pytest.mark.slow),
    ],
)
def test_it_is_meta_learned(name, kind):
    made, variables = student(name)
    learner = (
        protonet(made)
        if kind == "protonet"
        else maml(made, num_steps=1, inner_lr=0.1, head_only=kind == "anil")
    )
    bank = toy.bank(per_class=4, shape=(20, 20, 3))
    bank = bank._replace(images=jnp.pad(bank.images, [(0, 0)] * 3 + [(0, 2), (0, 0)]))
    update = replay.episodic_update(
        learner,
        optax.sgd(0.05),
        way=toy.WAY,
        shots=1,
        queries=1,
        episodes_per_update=1,
    )
    algorithm = episodic(learner, update, optax.sgd(0.05))
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    state = toy.zeros_like(state)
    state = state._replace(params=variables["params"])
    after, info = algorithm.compiled()(jax.random.key(1), state, bank)
    assert bool(info.is_finite)
    moved = jax.tree.map(
        lambda a, b: jnp.abs(a - b).max(), after.params, variables["params"]
    )
    moved.pop("head") if kind == "protonet" else None
    moved = jax.tree_util.tree_leaves_with_path(moved)
    still = [jax.tree_util.keystr(path) for path, x in moved if x == 0]
    assert not [path for path in still if "kernel" in path], still
    # A network without batch norm has one figure.
    run = evaluation.evaluator(
        evaluation.learner_classifier(learner),
        way=toy.WAY,
        shots=1,
        queries=2,
        num_episodes=2,
    )
    if kind == "maml":
        found = run(jax.random.key(0), {"params": after.params}, bank)
        wanted = {"inductive"} if name in ALONE else {"inductive", "transductive"}
        assert set(found) == wanted


# Of each kind, with and without batch norm, one by default.
@pytest.mark.parametrize(
    "name",
    [
        "conv4",
        "vit",
        pytest.param("resnet12", marks=pytest.mark.slow),
        pytest.param("convnext", marks=pytest.mark.slow),
    ],
)
def test_it_is_distilled_saved_and_describes(name, tmp_path):
    model = network(name, way=2 * toy.WAY)
    variables = jax.jit(model.init)(jax.random.key(1))
    columns = np.asarray([0, toy.WAY, 2 * toy.WAY], np.int32)
    fitted = jax.jit(
        lambda v, x: distilled.fit_statistics(
            model,
            v,
            x,
            weights=jnp.ones(2),
            temperature=2.0,
            columns=columns,
            whitening=0.5,
            at_once=4,
        )
    )(variables, (255 * images(8)).astype(jnp.uint8))
    embed = jax.jit(lambda v, x: distilled.embed(model, v, x))
    said = embed(fitted, images(5))
    assert said.shape[0] == 5 and np.isfinite(said).all()
    assert bool(jax.tree.leaves(fitted["batch_stats"])) == (name not in ALONE)
    save_model(tmp_path / "model.npz", model, fitted, steps=1)
    loaded, again, _ = load_model(tmp_path / "model.npz")
    assert loaded == model
    np.testing.assert_allclose(embed(again, images(5)), said, rtol=1e-5, atol=1e-6)


def test_one_figure_selects_and_stands_in_the_table():
    class Made:
        recovered, holdouts = None, ()

    def rule(name):
        learner = protonet(student(name)[0])
        Made.predictors = {"ours": evaluation.learner_classifier(learner)}
        options = EvalOptions(select="val", protocol="transductive")
        return selection.rule(options, Made)

    assert rule("vit") == "val_1shot_inductive"
    assert rule("conv4") == "val_1shot_transductive"
    cell = {"inductive": {"mean": 50.0, "ci95": 1.0}}
    assert final.shown(cell) == ("-", "50.00 +- 1.00")


@pytest.mark.parametrize(
    ("written", "kwargs"),
    [
        ("convnext", {}),
        ("vit(depth=4)", {"depth": 4}),
        ("resnet12(widths=(8, 8, 8, 8))", {"widths": (8, 8, 8, 8)}),
    ],
)
def test_the_command_line_names_it_in_one_piece(written, kwargs):
    """Keywords of the config's own student are not another's."""
    line = ["run.py", "--config=experiments/configs/panel.py"]
    config = command_line.parse([*line, f"--config.student={written}"]).config
    assert config.student.name == written.partition("(")[0]
    assert config.student.kwargs.to_dict() == kwargs


@pytest.mark.parametrize("written", ["vit(4)", "vit(depth=", "vit(depth=os)", "4", ""])
def test_what_is_no_call_is_refused(written):
    line = ["run.py", "--config=experiments/configs/panel.py"]
    with pytest.raises(InputError, match="write a name and its keywords"):
        command_line.parse([*line, f"--config.student={written}"])


def test_a_keyword_that_is_none_is_told_with_those_that_are():
    with pytest.raises(ValueError, match=r"no keyword 'dept'; it takes .*depth"):
        make_network("vit", num_classes=3, image_shape=(16, 16, 3), dept=3)
