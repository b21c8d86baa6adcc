"""The benchmark compares like with like: both libraries compute the same numbers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from free_jax import augment, interop, map_tasks, objectives
from free_jax.fewshot import episodes, learners
from free_jax.inversion import Adversary
from free_jax.inversion.objective import white_box
from free_jax.models import Generator
from free_jax.types import Teachers
from free_jax.zoo.network import Network

torch = pytest.importorskip("torch")

from benchmarks import against_torch, cases, scaling  # noqa: E402
from benchmarks.torch_baseline import episodes as torch_episodes  # noqa: E402
from benchmarks.torch_baseline import inversion as torch_inversion  # noqa: E402
from benchmarks.torch_baseline import networks, training  # noqa: E402


def random_variables(arch: Network, seed=0):
    """Drawn with NumPy, because `init` is slow to compile."""
    shapes = jax.eval_shape(arch.init, jax.random.key(0))

    def fit(path, x):
        if path[-1].key == "var":
            return 0.5 + jnp.square(x)
        # Keeps the numbers of deep networks near one.
        return x / x[..., 0].size ** 0.5 if x.ndim > 1 else x

    return jax.tree_util.tree_map_with_path(fit, toy.random_like(shapes, seed))


@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("conv4", "batch"),
        ("conv4", "running"),
        pytest.param("resnet18", "running", marks=pytest.mark.slow),
    ],
)
def test_classifiers_agree(name, norm, key):
    arch = cases.classifier(name)
    variables = random_variables(arch)
    images = jax.random.uniform(key, (2, 32, 32, 3))
    logits = jax.jit(lambda v, x: arch.apply(v, x, norm=norm))(variables, images)
    state = cases.torch_classifier(arch, variables)
    seen = cases.normalize(cases.to_torch(images))
    found = networks.NETWORKS[name](state, seen, norm == "running")
    np.testing.assert_allclose(logits, found.numpy(), rtol=1e-3, atol=1e-3)


def views_of(key, count=4) -> torch_inversion.View:
    """The crop and flip that our augmentation draws, read off marked images."""
    rows, columns = jnp.meshgrid(jnp.arange(32.0), jnp.arange(32.0), indexing="ij")
    marked = jnp.stack([rows, columns, jnp.ones((32, 32))], -1)
    seen = augment.crop_flip(key, marked[None].repeat(count, 0), per_image=False)[0]
    middle, beside = seen[16, 16], seen[16, 17]
    flip = bool(beside[1] < middle[1])
    place = 15 if flip else 16
    return torch_inversion.View(int(middle[0]) - 16, int(middle[1]) - place, flip)


@pytest.mark.slow
def test_inversion_losses_agree(key):
    arch, generator = cases.classifier("conv4", width=8), Generator((32, 32, 3), 4)
    labels = episodes.balanced_labels(5, 1)
    latents = jax.random.normal(key, (5, 16))
    shapes = jax.eval_shape(generator.init, key, latents, labels)["params"]
    phi = toy.random_like(shapes, scale=0.1)
    teacher, student = random_variables(arch, 1), random_variables(arch, 2)
    objective_gradient = white_box(cases.RELEASED, arch, arch)
    step_key = jax.random.key(3)

    @jax.jit
    def ours(phi, latents):
        images = generator.apply({"params": phi}, latents, labels)
        teachers = Teachers(teacher, jnp.arange(5))
        return objective_gradient(
            step_key, images, labels, teachers, Adversary(student["params"])
        )[0]

    state = cases.torch_generator(generator, phi)
    z = torch.tensor(np.array(latents))
    value = torch_inversion.loss(
        state,
        z,
        cases.torch_classifier(arch, teacher),
        networks.conv4,
        torch.tensor(np.array(labels), dtype=torch.long),
        views_of(step_key),
        cases.normalize,
        cases.torch_classifier(arch, student),
    )
    np.testing.assert_allclose(ours(phi, latents), value.item(), rtol=1e-4)


def small_episode(key, arch: Network):
    bank = cases._bank(classes=6, per_class=5)
    return episodes.sample_episode(key, bank, way=arch.num_classes, shots=1, queries=2)


@pytest.mark.slow
def test_maml_losses_and_meta_gradients_agree(key):
    arch = cases.classifier("conv4", width=4)
    learner = learners.maml(arch, num_steps=2)
    params = random_variables(arch)["params"]
    episode = small_episode(key, arch)
    (loss, info), grads = jax.jit(jax.value_and_grad(learner.loss, has_aux=True))(
        params, episode
    )
    weights = cases._torch_student(arch, params)
    task = cases.torch_episode(episode)
    optimizer = torch.optim.SGD(list(weights.values()), 0.0)
    found = torch_episodes.update(weights, optimizer, [task], steps=2)
    np.testing.assert_allclose(loss, found, rtol=1e-4)
    wanted = interop.to_state_dict({"params": grads}, arch)
    for name, weight in weights.items():
        np.testing.assert_allclose(
            weight.grad.numpy(), wanted[name], rtol=2e-2, atol=2e-4, err_msg=name
        )
    accuracy = torch_episodes.evaluate(weights, [task], steps=2)
    np.testing.assert_allclose(accuracy[0], info.accuracy, atol=1e-6)


def test_training_losses_agree():
    arch = cases.classifier("conv4", width=4)
    variables = random_variables(arch)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 10, 32, 32, 3), np.uint8)
    labels = np.arange(10) % 5
    optimizer = optax.chain(optax.clip_by_global_norm(50.0), optax.adam(0.01))

    @jax.jit
    def step(params, opt, batch):
        def loss(params):
            logits = learners.batch_apply(arch, params, batch / 255.0)
            return objectives.cross_entropy(logits, jnp.asarray(labels, jnp.int32))

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = optimizer.update(grads, opt, params)
        return optax.apply_updates(params, updates), opt, value

    params, expected = variables["params"], []
    opt = optimizer.init(params)
    for batch in images:
        params, opt, value = step(params, opt, jnp.asarray(batch, jnp.float32))
        expected.append(float(value))
    found = training.epoch(
        cases.torch_classifier(arch, variables),
        torch.tensor(np.moveaxis(images, -1, 2).copy()),
        torch.tensor(labels).repeat(2, 1),
        torch.zeros(2, 10, dtype=torch.bool),
        cases.normalize,
    )
    np.testing.assert_allclose(found, expected, rtol=5e-3)


# PyTorch's compiler, which is not called, warns about itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_teachers_say_the_same_and_distillation_loses_alike():
    """At a side of 84 as at 32; batches are drawn by each side for itself."""
    case = cases.describe(map_tasks=map_tasks, teachers=2, images=3, size=84)
    np.testing.assert_allclose(case.ours(), case.eager().numpy(), rtol=1e-4, atol=1e-5)
    case = cases.distil(teachers=40, batches=1, size=84)
    np.testing.assert_allclose(float(case.ours()), case.eager(), rtol=0.1)


def test_results_are_written_with_ratios(tmp_path, monkeypatch, capsys):
    calls = []

    def case():
        return cases.Case(
            lambda: calls.append("ours"), lambda: calls.append("eager"), None, 4, "step"
        )

    monkeypatch.setattr(against_torch, "build", lambda quick: {"a": case})
    out = tmp_path / "folder" / "result"
    against_torch.main(["--repeats=3", f"--out={out}"])
    assert calls == ["ours", "eager"] * 4  # the first pair is not counted
    row = json.loads(out.with_suffix(".json").read_text())["cases"]["a"]
    seconds = row["seconds"]
    assert len(seconds["ours"]["wall"]) == len(seconds["eager"]["cpu"]) == 3
    np.testing.assert_allclose(
        row["ratios"]["eager"]["wall"],
        np.divide(seconds["eager"]["wall"], seconds["ours"]["wall"]),
    )
    assert out.with_suffix(".png").stat().st_size > 1000
    assert "eager/ours" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        against_torch.main(["--cases=unheard_of"])
    assert "unheard_of" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["distillation", "description"])
def test_work_of_the_scaling_table_is_made_of_records_as_they_are(name):
    build, _ = scaling.CASES[name]
    fn, arguments = build(map_tasks)
    shapes = jax.eval_shape(fn, *arguments)
    assert all(leaf.size for leaf in jax.tree.leaves(shapes))
