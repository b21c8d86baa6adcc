"""Recovers images from every teacher of a zoo and asks all teachers about them.

Both stages are done in chunks that are written as soon as they are known, so that a
stopped run loses a chunk at most.
"""

import io
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments import (
    build_inversion,
    checkpointing,
    hosts,
    jsonio,
    logging_utils,
    meta_training,
)
from experiments.meta_training import Stopped as Stopped
from free_jax import augment, endpoints, panel, scenes
from free_jax import zoo as zoo_lib
from free_jax.episodes import balanced_labels


class Pool(NamedTuple):
    """Recovered images of a whole zoo, on the host.

    Attributes:
      images: [N, h, w, c] uint8.
      classes: [N] int32 absolute class ids; -1 for scenes, which have none.
      owners: [N] int32 index over the teachers of all groups; -1 for scenes.
    """

    images: np.ndarray
    classes: np.ndarray
    owners: np.ndarray


def recover(
    config: Any,
    zoo: zoo_lib.Zoo,
    image_shape: tuple[int, int, int],
    map_tasks: Callable,
    workdir: str,
    stop: checkpointing.StopRequest,
) -> Pool:
    """Images of every teacher, and scenes, as ``config.recover`` says.

    Args:
      config: of the run.
      zoo: teachers.
      image_shape: all images are resized to it.
      map_tasks: how the teachers of a chunk are spread.
      workdir: chunks are kept in its folder ``recovered``.
      stop: polled between chunks.

    Raises:
      Stopped: stop was requested; the finished chunks are kept.
    """
    options = config.recover
    root = jax.random.fold_in(jax.random.key(config.seed), 3)
    labels = balanced_labels(zoo.way, options.images_per_class)
    jobs: list[tuple[str, Callable[[], dict[str, np.ndarray]]]] = []
    first = 0  # Index of the group's first teacher over all groups.
    groups = zoo.groups if options.images_per_class else ()
    for number, group in enumerate(groups):
        inverter = build_inversion.inverter(config, group.architecture)
        key = jax.random.fold_in(root, 0)
        if options.backend == "five":
            shared = meta_training.trained_generator(
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
            recovered, info, _ = inverter.invert(*task[:1], shared, task[1], labels)
            pixels = augment.fit_to(recovered.images, image_shape)
            return jnp.floor(255 * jnp.clip(pixels, 0, 1)).astype(jnp.uint8), info

        run = jax.jit(map_tasks(one, everywhere=True))
        for start in range(0, group.num_teachers, options.teachers_at_once):
            index = np.arange(
                start, min(start + options.teachers_at_once, group.num_teachers)
            )

            def invert(index=index, run=run, shared=shared, group=group, first=first):
                keys = jax.vmap(lambda i: jax.random.fold_in(root, 1 + i))(
                    jnp.asarray(first + index)
                )
                teachers = zoo_lib.take(group.teachers, index)
                images, info = jax.device_get(run(shared, (keys, teachers)))
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
    parts = list(_chunks(folder, "recovering", jobs, config, stop))
    pool = Pool(
        *(
            np.concatenate([part[name] for part in parts])
            for name in ("images", "classes", "owners")
        )
    )
    known = [part["teacher_accuracy"] for part in parts if "teacher_accuracy" in part]
    if known:
        print(
            f"recovered {len(pool.images)} images; their teachers know "
            f"{100 * np.concatenate(known).mean():.1f} % of their own",
            flush=True,
        )
    return pool


def seconds_spent(workdir: str, *stages: str) -> float:
    """Time that stages took, over all interruptions; meta-training is recovery.

    Args:
      workdir: run directory.
      *stages: "recovered", "described"; both if none is given.
    """
    stages = stages or ("recovered", "described")
    total = meta_training.seconds_spent(workdir) if "recovered" in stages else 0.0
    return total + sum(
        float(read_chunk(file).get("seconds", 0.0))
        for stage in stages
        for file in finished(workdir, stage)
    )


def finished(workdir: str, stage: str) -> list[epath.Path]:
    """The chunks of a stage, ``recovered`` or ``described``, in order."""
    folder = epath.Path(workdir) / stage
    return sorted(folder.glob("[a-z]*.npz")) if folder.exists() else []


def _scenes(root: jax.Array, count: int, image_shape: tuple[int, int, int]) -> dict:
    draw = jax.jit(jax.vmap(lambda key: scenes.dead_leaves(key, image_shape)))
    keys = jax.random.split(jax.random.fold_in(root, 0), count)
    images = jnp.concatenate(
        [draw(keys[start : start + 500]) for start in range(0, count, 500)]
    )
    pixels = np.floor(255 * np.clip(jax.device_get(images), 0, 1)).astype(np.uint8)
    nobody = np.full(count, -1, np.int32)
    return {"images": pixels, "classes": nobody, "owners": nobody}


def ask(
    config: Any,
    zoo: zoo_lib.Zoo,
    images: np.ndarray,
    map_tasks: Callable,
    workdir: str,
    stop: checkpointing.StopRequest,
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
    hub = endpoints.hub_of(zoo)

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
    for part in _chunks(folder, "asking all teachers", jobs, config, stop, keep):
        found.append(part["logits"])
        if hub and not hub.alive().any() and np.isnan(found[-1]).any():
            asked = sum(map(len, found))
            print(f"the budget of queries ends after {asked} of {len(images)} images")
            break
    return np.concatenate(found)


def _complete(array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all())


def _chunks(
    folder: epath.Path,
    title: str,
    jobs: list[tuple[str, Callable[[], dict[str, np.ndarray]]]],
    config: Any,
    stop: checkpointing.StopRequest,
    keep: Callable[[np.ndarray], bool] = lambda array: True,
) -> Iterator[dict[str, np.ndarray]]:
    """Does the jobs that have no sound file yet, and yields all results in order.

    Results with an array that is not to be kept get no file.
    """
    progress = logging_utils.Progress(len(jobs), every_secs=config.log.every_secs)
    start, done = time.monotonic(), 0
    files = [folder / f"{name}.npz" for name, _ in jobs]
    if hosts.is_writer():
        folder.mkdir(parents=True, exist_ok=True)
    present = hosts.agreed([_is_sound(file) for file in files])
    for number, (_, job) in enumerate(jobs):
        if present[number]:
            yield read_chunk(files[number])
            continue
        if stop.requested:
            raise Stopped
        clock = time.monotonic()
        arrays = job()
        arrays["seconds"] = np.asarray(time.monotonic() - clock)
        if hosts.is_writer() and all(keep(array) for array in arrays.values()):
            buffer = io.BytesIO()
            np.savez(buffer, allow_pickle=False, **arrays)
            jsonio.write_bytes(files[number], buffer.getvalue())
        done += 1
        progress.update(number + 1, {title: ""}, force=number + 1 == len(jobs))
        yield arrays
    if done:
        seconds = logging_utils.format_duration(time.monotonic() - start)
        print(f"{title}: {done} chunks in {seconds}", flush=True)


def read_chunk(file: epath.Path) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
        return dict(stored)


def _is_sound(file: epath.Path) -> bool:
    if not hosts.is_writer() or not file.exists():
        return False
    try:
        read_chunk(file)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        print(f"warning: {file} is damaged ({error}); made anew", file=sys.stderr)
        return False
    return True
