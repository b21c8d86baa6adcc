"""Recovered images against queries spent: the released estimator and ours.

    python benchmarks/zero_order.py --zoo=DIR [--teachers=3,57] [--out=FOLDER]

Each method inverts the same teachers, asked for logits (or less, where its name says
so), and is measured when it has spent each budget (queries an image): how often the
teacher gives the image the wanted label, and how often OTHER teachers that know the
class do, which tells meaning from tricks.  ``zero_order.json``, ``.md`` and ``.png``
are written to the folder.

``--cosine`` also gives each estimate's mean cosine to the true gradient along the way,
with respect to the images and to the generator, at three points of the trajectory.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

import free_jax as fj  # noqa: E402
from experiments.harness import plots  # noqa: E402
from free_jax import inversion, panel  # noqa: E402
from free_jax.inversion import answers as answers_lib  # noqa: E402

Estimator = inversion.Estimator


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to spend queries; ``warm`` starts from what earlier teachers taught."""

    estimator: Estimator
    labels: bool = True
    rates: tuple[float, float] = (3e-3, 1e-2)
    gives: answers_lib.Gives = "logits"
    per_image: bool = True
    warm: bool = False


OURS = Estimator(9, 0.15, 5, at_once=9)
METHODS = {
    "ours": Method(OURS),
    "released": Method(Estimator(), labels=False, rates=(1e-3, 1e-3), per_image=False),
    "ours, warm": Method(OURS, warm=True),
    "ours, rounded": Method(OURS._replace(smoothing=0.5), gives="rounded"),
    "ours, top_k": Method(OURS._replace(smoothing=0.5), gives="top_k"),
    # A label changes only where a perturbation crosses a boundary.
    "ours, labels": Method(
        OURS._replace(smoothing=5.0, antithetic=True), gives="labels"
    ),
    "ours, 4 directions": Method(OURS._replace(num_directions=4)),
    "ours, all pixels": Method(OURS._replace(frequencies=0)),
    "released estimator, our generator": Method(Estimator()),
}


class Bench:
    """A zoo, and what each teacher's images are judged by."""

    def __init__(self, options):
        zoo = fj.load_zoo(options.zoo)
        self.group = zoo.groups[0]
        self.network = self.group.network
        self.budgets = [int(x) for x in options.budgets.split(",")]
        self.labels = fj.balanced_labels(zoo.way, options.images_per_class)
        self.width, self.cosine = options.width, options.cosine
        ask = panel.embedder((self.network,), output="logits", mirror=False)
        self.ask = jax.jit(lambda images: ask((self.group.teachers,), images))

    def judge(self, images, owner: int) -> tuple[float, float]:
        """Share labelled as wanted: by the owner, and by others that know the class."""
        ids = np.asarray(self.group.teachers.class_ids)
        said = np.asarray(self.ask(images)).reshape(len(images), *ids.shape)
        answers = np.take_along_axis(ids[None], said.argmax(-1)[..., None], 2)[..., 0]
        wanted = ids[owner][np.asarray(self.labels)]
        right = answers == wanted[:, None]  # [n, T]
        knows = (ids[None] == wanted[:, None, None]).any(-1)
        knows[:, owner] = False
        return float(right[:, owner].mean()), float(right[knows].mean())

    def run(self, method: Method, teachers: list[int]) -> Iterator[list[dict]]:
        """The rows of one teacher after the other, one a budget."""
        network, labels = self.network, self.labels
        generator = fj.models.Generator(
            image_shape=network.image_shape,
            width=self.width,
            num_classes=network.num_classes if method.labels else 0,
            label_input="concat",
        )
        source = inversion.generator_source(generator)
        objective = inversion.Objective(
            moments=0.0, adversarial=0.0, augment_per_image=method.per_image
        )
        objective_gradient = inversion.zero_order(
            objective,
            network,
            estimator=method.estimator,
            respond=answers_lib.answers(method.gives),
        )
        exact = inversion.white_box(objective, network)
        g_rate, z_rate = method.rates
        optimizer = optax.multi_transform(
            {
                "generator": optax.adam(g_rate, b1=0.5),
                "latents": optax.adam(z_rate, b1=0.5),
            },
            {"generator": "generator", "latents": "latents"},
        )

        def gradients(objective_gradient, key, leaves, teacher):
            images, pull_back = jax.vjp(lambda x: source.render(x, labels), leaves)
            _, _, gradient = objective_gradient(key, images, labels, teacher, None)
            return gradient, pull_back(gradient)[0]

        @jax.jit
        def step(key, leaves, opt_state, teacher):
            _, grads = gradients(objective_gradient, key, leaves, teacher)
            updates, opt_state = optimizer.update(grads, opt_state, leaves)
            return optax.apply_updates(leaves, updates), opt_state

        @jax.jit
        def compare(key, leaves, teacher):
            found = gradients(objective_gradient, key, leaves, teacher)
            # The estimate's view of the images is that of its first half of the key.
            wanted = gradients(exact, jax.random.split(key)[0], leaves, teacher)
            images = _cosine(found[0], wanted[0], (1, 2, 3)).mean()
            parts = jax.tree.map(
                lambda a, b: jnp.stack([(a * b).sum(), (a * a).sum(), (b * b).sum()]),
                found[1],
                wanted[1],
            )
            dot, a, b = sum(jax.tree.leaves(parts))
            return images, dot / jnp.sqrt(a * b)

        render = jax.jit(source.render)
        shared = source.init(jax.random.key(0))
        for owner in teachers:
            rows = []
            teacher = fj.take(self.group.teachers, owner)
            root = jax.random.key(1 + owner)
            leaves = source.start(root, shared, labels)
            opt_state, spent, clock = optimizer.init(leaves), 0, time.monotonic()
            cost = method.estimator.queries
            for number in range(max(self.budgets) // cost):
                key = jax.random.fold_in(root, number)
                leaves, opt_state = step(key, leaves, opt_state, teacher)
                spent += cost
                # The last state that a budget pays for.
                for budget in [b for b in self.budgets if spent <= b < spent + cost]:
                    images = render(leaves, labels)
                    own, others = self.judge(images, owner)
                    row = {"owner": owner, "budget": budget, "queries": spent}
                    row |= {"teacher": own, "others": others}
                    if self.cosine:
                        angles = compare(key, leaves, teacher)
                        row["cosine_images"], row["cosine_leaves"] = map(float, angles)
                    rows.append(row | {"seconds": time.monotonic() - clock})
            if method.warm:
                shared = jax.tree.map(
                    lambda old, new: 0.5 * (old + new), shared, leaves["generator"]
                )
            yield rows


def _cosine(a, b, axes):
    norms = jnp.sqrt(jnp.square(a).sum(axes) * jnp.square(b).sum(axes))
    return (a * b).sum(axes) / (norms + 1e-20)


def mean(rows: list[dict], budget: int, name: str) -> float:
    """Mean over teachers, nan where a method cannot make one step."""
    found = [row[name] for row in rows if row["budget"] == budget]
    return float(np.mean(found)) if found else float("nan")


def table(results: dict[str, list[dict]], budgets: list[int]) -> str:
    """Markdown: a row a method, a pair of columns a budget."""
    head = " | ".join(f"{b} queries: teacher / others %" for b in budgets)
    lines = [f"| method | {head} |", "|---" * (1 + len(budgets)) + "|"]
    for name, rows in results.items():
        pairs = [
            [100 * mean(rows, b, judge) for judge in ("teacher", "others")]
            for b in budgets
        ]
        cells = [f"{own:.0f} / {others:.0f}" for own, others in pairs]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines).replace("nan / nan", "-") + "\n"


def main() -> None:
    """Runs the methods in turn and writes what is known after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zoo", required=True, help="a converted zoo")
    parser.add_argument("--teachers", default="3,57")
    parser.add_argument("--methods", default=";".join(METHODS))
    parser.add_argument("--budgets", default="101,404,1616")
    parser.add_argument("--images_per_class", type=int, default=5)
    parser.add_argument("--width", type=int, default=32, help="of the generator")
    parser.add_argument("--cosine", action="store_true")
    parser.add_argument("--out", default="runs/zero_order")
    options = parser.parse_args()
    bench, results = Bench(options), {}
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    asked = {k: v for k, v in vars(options).items() if k not in ("methods", "out")}
    file = out / "zero_order.json"
    if file.exists():
        stored = json.loads(file.read_text())
        if stored["options"] == asked:
            results = stored["results"]  # Continues a stopped run.
    for name in options.methods.split(";"):
        rows = results.setdefault(name, [])
        done = {row["owner"] for row in rows}
        wanted = [int(x) for x in options.teachers.split(",")]
        if METHODS[name].warm and done < set(wanted):
            rows.clear()  # Each teacher starts from those before.
            done = set()
        missing = [x for x in wanted if x not in done]
        for found in bench.run(METHODS[name], missing) if missing else ():
            rows += found
            stored = {"options": asked, "results": results}
            file.write_text(json.dumps(stored, indent=1))
            (out / "zero_order.md").write_text(table(results, bench.budgets))
            print(table(results, bench.budgets), flush=True)
    curves = {
        f"{name}, {judge}": [
            (np.log10(b), 100 * mean(rows, b, judge)) for b in bench.budgets
        ]
        for name, rows in results.items()
        for judge in ("teacher", "others")
    }
    plots.save_curves(
        out / "zero_order.png",
        curves,
        xlabel="log10 of queries an image",
        ylabel="images labelled as wanted (%)",
        title="Recovered images, by their teacher and by others",
    )


if __name__ == "__main__":
    main()
