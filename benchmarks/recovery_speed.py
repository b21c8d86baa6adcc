"""Images recovered per second at equal quality, by three inversions.

    python benchmarks/recovery_speed.py --data=DIR/cifar_fs --zoo=DIR \
        [--json=FILE --png=FILE] [--meta_steps=60] [--teachers=4]

On a CPU, seconds are those that the processor spent (on all threads together), which
other processes do not stretch; elsewhere they are the clock's.

Quality: the teacher that an image was recovered from gives 90 % of its images the
wanted label.  Each back-end makes as many steps as that takes (of a few numbers tried),
on teachers that FIVE was not meta-trained on.  FIVE's meta-training is stated
separately, and amortised over the images of a whole zoo of 100 teachers.  "Others" is
how often OTHER teachers that know the class recognise an image, which quality by the
owner hides; FIVE was meta-trained on those, the other back-ends saw none of them.
"""

import argparse
import json
import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import ml_collections  # noqa: E402
import numpy as np  # noqa: E402

import free_jax as fj  # noqa: E402
from experiments import inputs  # noqa: E402
from experiments.configs import preinverted_cifar_fs  # noqa: E402
from experiments.harness import metrics, pictures  # noqa: E402
from experiments.harness.optimizers import optimizer  # noqa: E402
from experiments.methods import checks  # noqa: E402
from free_jax import inversion, panel  # noqa: E402

ON_CPU = jax.default_backend() == "cpu"
WANTED = 0.9  # share of recovered images that their own teacher labels as asked
COLUMNS = (
    "back-end",
    "steps",
    "owner %",
    "others %",
    "seconds a teacher",
    "images a second",
    "amortised images a second",
    "times the generator's speed",
)
# Steps tried, upwards, until the owner's accuracy is reached.
STEPS = {
    "five": (5, 6, 8, 10, 15, 20, 40),
    "generator": (5, 6, 8, 10, 20, 40, 70, 100, 150, 200, 400),
    "pixels": (5, 10, 15, 20, 30, 50, 100, 200),
}


def clock() -> float:
    return time.process_time() if ON_CPU else time.perf_counter()


def settings(backend: str, width: int) -> ml_collections.ConfigDict:
    """A config whose section ``recover`` is the back-end's own default."""
    variant = "" if backend == "pixels" else backend
    config = preinverted_cifar_fs.get_config(variant)
    config.recover.inversion.generator.width = width
    return config


def wanted(config: ml_collections.ConfigDict) -> panel.RecoverOptions:
    """Section ``recover`` as a record."""
    return checks.validate(config).recover.anew


def measure(config, network, teachers, others, shared, labels, repeats):
    """Quality and seconds a teacher of the configured number of steps."""
    inverter = inversion.build(wanted(config).inversion, network)
    shared = inverter.init(jax.random.key(0)) if shared is None else shared
    run = jax.jit(inverter.invert)
    keys = jax.random.split(jax.random.key(1), len(teachers.class_ids))
    seconds, images, owner = [], [], []
    for i, key in enumerate(keys):
        teacher = fj.take(teachers, i)
        if i == 0:
            jax.block_until_ready(run(key, shared, teacher, labels))  # compiles
        for _ in range(repeats):
            start = clock()
            recovered, info, _ = jax.block_until_ready(
                run(key, shared, teacher, labels)
            )
            seconds.append(clock() - start)
        images.append(np.asarray(recovered.images))
        owner.append(float(info.teacher_accuracy))
    classes = np.asarray(teachers.class_ids)[:, np.asarray(labels)]
    recognised = judged_by_others(network, others, np.stack(images), classes)
    return {
        "steps": config.recover.inversion.num_steps,
        "owner": float(np.mean(owner)),
        "owner_by_teacher": owner,
        "others": recognised,
        "seconds_a_teacher": float(np.median(seconds)),
        "images_a_second": len(labels) / float(np.median(seconds)),
    }, np.stack(images)


def judged_by_others(network, others, images, classes) -> float:
    """Share of (image, other teacher that knows its class) pairs that agree."""
    embed = jax.jit(panel.embedder((network,), output="logits", mirror=False))
    flat = images.reshape(-1, *images.shape[2:])
    ids = np.asarray(others.class_ids)
    said = np.asarray(embed((others,), flat)).reshape(len(flat), *ids.shape)
    answers = np.take_along_axis(ids[None], said.argmax(-1)[..., None], 2)[..., 0]
    wanted = classes.reshape(-1)[:, None]
    knows = (ids[None] == wanted[..., None]).any(-1)
    return float((answers == wanted)[knows].mean())


def meta_train(config, network, teachers, labels, options):
    """FIVE's generator, and the seconds its training took after compilation."""
    init, step = inversion.meta_training(
        inversion.build(wanted(config).inversion, network),
        labels,
        optimizer=optimizer(config.recover.meta_training.optimizer),
        teachers_per_step=config.recover.meta_training.teachers_per_step,
    )
    run = jax.jit(step)
    state = jax.jit(init)(jax.random.key(2))
    jax.block_until_ready(run(jax.random.key(3), state, teachers))
    start = clock()
    for number in range(options.meta_steps):
        key = jax.random.fold_in(jax.random.key(4), number)
        state, info = run(key, state, teachers)
        if number % 10 == 9:
            accuracy = float(info.teacher_accuracy)
            print(f"  meta-step {number + 1}: owner {100 * accuracy:.0f} %", flush=True)
    jax.block_until_ready(state)
    return state.generator, clock() - start


def main() -> None:
    """Prints the table and writes the JSON file and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--zoo", required=True)
    parser.add_argument("--json", default="")
    parser.add_argument("--png", default="")
    parser.add_argument("--meta_steps", type=int, default=60)
    parser.add_argument("--teachers", type=int, default=4, help="inverted, held out")
    parser.add_argument("--width", type=int, default=32, help="of the generator")
    parser.add_argument("--images", type=int, default=20, help="a class")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()

    config = preinverted_cifar_fs.get_config()
    config.data.path, config.zoo.path = options.data, options.zoo
    group = inputs.load_zoo(config.zoo, config.data).groups[0]
    network, count = group.network, group.num_teachers
    teachers = fj.take(group.teachers, np.arange(options.teachers))
    others = fj.take(group.teachers, np.arange(options.teachers, count))
    labels = fj.balanced_labels(network.num_classes, options.images)
    rows, grids = [], []
    for backend, tried in STEPS.items():
        config = settings(backend, options.width)
        config.recover.inversion.num_steps = tried[0]
        shared, spent = None, 0.0
        if backend == "five":
            print(f"meta-training, {options.meta_steps} steps", flush=True)
            shared, spent = meta_train(config, network, others, labels, options)
        for steps in tried:
            config.recover.inversion.num_steps = steps
            row, images = measure(
                config, network, teachers, others, shared, labels, options.repeats
            )
            print(
                f"{backend}, {steps} steps: owner {100 * row['owner']:.1f} %, others "
                f"{100 * row['others']:.1f} %, {row['images_a_second']:.1f} images/s",
                flush=True,
            )
            if row["owner"] >= WANTED:
                break
        per_zoo = 100 * len(labels)
        seconds = per_zoo / row["images_a_second"] + spent
        row |= {"back-end": backend, "reached": row["owner"] >= WANTED}
        row |= {"meta_seconds": spent, "amortised": per_zoo / seconds}
        rows.append(row)
        # Five images of each of the first teacher's classes.
        order = np.argsort(np.asarray(labels), kind="stable")
        first = images[0][order].reshape(
            network.num_classes, options.images, *network.image_shape
        )
        grids.append(first[:, :5].reshape(-1, *network.image_shape))
    slow = next(r for r in rows if r["back-end"] == "generator")["images_a_second"]
    shown = [
        {
            "back-end": row["back-end"] + ("" if row["reached"] else " (90 % missed)"),
            "steps": row["steps"],
            "owner %": f"{100 * row['owner']:.1f}",
            "others %": f"{100 * row['others']:.1f}",
            "seconds a teacher": row["seconds_a_teacher"],
            "images a second": row["images_a_second"],
            "amortised images a second": row["amortised"],
            "times the generator's speed": row["images_a_second"] / slow,
        }
        for row in rows
    ]
    title = (
        f"{len(labels)} images a teacher, {options.teachers} held-out teachers, "
        f"generator width {options.width}, FIVE meta-trained for "
        f"{rows[0]['meta_seconds']:.0f} s, amortised over 100 teachers"
    )
    metrics.print_table(shown, COLUMNS, title=title)
    if options.json:
        record = {"title": title, "device": jax.devices()[0].device_kind, "rows": rows}
        pathlib.Path(options.json).write_text(json.dumps(record, indent=1))
    if options.png:
        images = np.concatenate(grids)
        names = [row["back-end"] for row in rows]
        pictures.save_grid(options.png, images, rows=len(rows), labels=names)


if __name__ == "__main__":
    main()
