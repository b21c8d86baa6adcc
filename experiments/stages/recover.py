"""Recovers images from every teacher of a zoo and asks all teachers about them.

Both stages are done in `chunks`, which survive a stop.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments.harness import chunks, stopping
from experiments.harness.chunks import Pool
from experiments.stages import (
    adversarial_rounds,
    build_inversion,
    meta_generator,
    reuse,
)
from free_jax import keys, panel
from free_jax import zoo as zoo_lib
from free_jax.fewshot.episodes import balanced_labels
from free_jax.images import fit_to, to_bytes
from free_jax.inversion import dead_leaves


def recover(
    config: Any,
    zoo: zoo_lib.Zoo,
    image_shape: tuple[int, int, int],
    map_tasks: Callable,
    workdir: str,
    stop: stopping.StopRequest,
    rival: adversarial_rounds.Rival | None = None,
) -> Pool:
    """Images of every teacher, and scenes, as ``config.recover`` says.

    Args:
      config: of the run.
      zoo: teachers.
      image_shape: all images are resized to it.
      map_tasks: how the teachers of a chunk are spread.
      workdir: chunks are kept in its folder ``recovered``.
      stop: polled between chunks.
      rival: a distilled model that the images should be new to.

    Raises:
      Stopped: stop was requested; the finished chunks are kept.
    """
    options = config.recover
    root = keys.named(jax.random.key(config.seed), "recover")
    if rival:  # Not the images of the earlier rounds again.
        root = keys.named(root, "round", rival.number)
    labels = balanced_labels(zoo.way, options.images_per_class)
    jobs: list[tuple[str, Callable[[], dict[str, np.ndarray]]]] = []
    first = 0  # Index of the group's first teacher over all groups.
    groups = zoo.groups if options.images_per_class else ()
    for number, group in enumerate(groups):
        inverter = build_inversion.inverter(
            config, group.architecture, rival.student if rival else None
        )
        key = keys.named(root, "generator", number)
        if options.backend == "five":
            shared = meta_generator.trained_generator(
                config,
                f"group{number}",
                key,
                inverter,
                labels,
                group.teachers,
                map_tasks,
                workdir,
                stop,
            )
        else:
            shared = inverter.init(key)

        def one(shared, task, inverter=inverter):
            key, teacher, adversary = task
            recovered, info, _ = inverter.invert(
                key, shared, teacher, labels, adversary
            )
            return to_bytes(fit_to(recovered.images, image_shape)), info

        run = jax.jit(map_tasks(one, everywhere=True))
        for start in range(0, group.num_teachers, options.teachers_at_once):
            index = np.arange(
                start, min(start + options.teachers_at_once, group.num_teachers)
            )

            def invert(index=index, run=run, shared=shared, group=group, first=first):
                teacher_keys = jax.vmap(lambda i: keys.named(root, "teacher", i))(
                    jnp.asarray(first + index)
                )
                teachers = zoo_lib.take(group.teachers, index)
                adversaries = rival.of_teachers(first + index) if rival else None
                tasks = (teacher_keys, teachers, adversaries)
                images, info = jax.device_get(run(shared, tasks))
                ids = np.asarray(teachers.class_ids)[:, np.asarray(labels)]
                return {
                    "images": images.reshape(-1, *image_shape),
                    "classes": ids.reshape(-1),
                    "owners": np.repeat(first + index, len(labels)),
                    "teacher_accuracy": info.teacher_accuracy,
                }

            jobs.append((f"group{number}-{start:05d}", invert))
        first += group.num_teachers
    if options.scenes:
        jobs.append(
            ("scenes", lambda: _scenes(root, options.scenes, image_shape)),
        )
    folder = epath.Path(workdir) / "recovered"
    parts = list(chunks.in_chunks(folder, "recovering", jobs, config, stop))
    pool = reuse.pool_of(parts, reuse.recipe(config))
    known = [part["teacher_accuracy"] for part in parts if "teacher_accuracy" in part]
    if known:
        print(
            f"recovered {len(pool.images)} images; their teachers know "
            f"{100 * np.concatenate(known).mean():.1f} % of their own",
            flush=True,
        )
    return pool


def _scenes(root: jax.Array, count: int, image_shape: tuple[int, int, int]) -> dict:
    draw = jax.jit(jax.vmap(lambda key: dead_leaves.draw(key, image_shape)))
    each = jax.random.split(keys.named(root, "dead leaves"), count)
    images = jnp.concatenate(
        [draw(each[start : start + 500]) for start in range(0, count, 500)]
    )
    pixels = np.asarray(to_bytes(images))
    nobody = np.full(count, -1, np.int32)
    return {"images": pixels, "classes": nobody, "owners": nobody}


def ask(
    config: Any,
    zoo: zoo_lib.Zoo,
    images: np.ndarray,
    map_tasks: Callable,
    workdir: str,
    stop: stopping.StopRequest,
    *,
    chunk: int = 500,
    at_once: int = 250,
) -> np.ndarray:
    """What all teachers say about images: logits [N, T, W]; forward queries only.

    Endpoints may leave queries without an answer (NaN); a chunk with such is not kept,
    because its answers are in the ledger and the others may come with the next run.
    Where their budget ends, N is smaller than the number of images.

    Args:
      config: of the run.
      zoo: teachers.
      images: [N, h, w, c] uint8.
      map_tasks: how the teachers are spread.
      workdir: chunks are kept in its folder ``described``.
      stop: polled between chunks.
      chunk: images whose answers are kept in one file.
      at_once: images that a teacher looks at in one batch, so few that their maps stay
        in a CPU's cache; endpoints are sent a whole chunk.

    Raises:
      Stopped: stop was requested; the finished chunks are kept.
    """
    describe = panel.describer(
        zoo.architectures, output="logits", mirror=False, map_tasks=map_tasks
    )
    run = jax.jit(describe)
    hub = zoo.service

    def question(start: int) -> dict[str, np.ndarray]:
        part = images[start : start + chunk]
        # The last chunk is padded: one shape, one compilation.  Endpoints are not asked
        # about padding.
        missing = 0 if hub else chunk - len(part)
        part = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
        size = len(part) if hub else at_once
        said = np.concatenate(
            [
                np.asarray(run(zoo.teachers, part[first : first + size]))
                for first in range(0, len(part), size)
            ]
        )
        said = said[: len(said) - missing]
        if hub:
            hub.raise_if_broken()
        return {"logits": said.reshape(len(said), -1, zoo.way)}

    jobs = [
        (f"images-{start:06d}", lambda start=start: question(start))
        for start in range(0, len(images), chunk)
    ]
    folder = epath.Path(workdir) / "described"
    keep = _complete if hub else lambda array: True
    found = []
    for part in chunks.in_chunks(
        folder, "asking all teachers", jobs, config, stop, keep
    ):
        found.append(part["logits"])
        if hub and not hub.alive().any() and np.isnan(found[-1]).any():
            asked = sum(map(len, found))
            print(f"the budget of queries ends after {asked} of {len(images)} images")
            break
    return np.concatenate(found)


def _complete(array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all())
