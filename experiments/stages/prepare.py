"""What some methods need before their first step: recovered images, all answers."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments import inputs
from experiments.harness import files, hosts, pictures, stopping
from experiments.stages import adversarial_rounds, panel_choice, recover, reuse
from free_jax import panel as panel_lib
from free_jax import remote
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.fewshot import banks
from free_jax.panel.distillation import Described
from free_jax.types import Answers, ImageBank, SyntheticImages
from free_jax.types import SyntheticImages as Pool

_NOBODY = "no teacher of the zoo answers anything that depends on the image"


def described(
    config: Any,
    zoo: zoo_lib.Zoo,
    panel: panel_choice.PanelChoice,
    map_tasks: Callable,
    workdir: str,
    stop: stopping.StopRequest,
) -> tuple[Described, ImageBank | None]:
    """Recovers images, asks teachers about them, and judges the teachers.

    Args:
      config: of the run.
      zoo: teachers that images are recovered from.
      panel: whose teachers describe every image.
      map_tasks: how the teachers of a chunk are spread.
      workdir: run directory.
      stop: polled between chunks.

    Returns:
      The panel's answers, and the images of held-out classes, if there are any; their
      owners' images are in the bank only, never among those described.

    Writes ``recovered.png`` and ``teachers.json`` (what each teacher is trusted).

    Raises:
      Stopped: stop was requested; finished chunks are kept.
      InputError: no teacher is left to believe.
    """
    folder = epath.Path(workdir)
    size = inputs.preset(config).image_size
    kept = []
    if config.recover.reuse:
        pool, logits = reuse.reuse(config, config.recover.reuse, zoo, panel.asked)
    else:
        shape = (size, size, 3)
        asked = zoo_lib.select(zoo, panel.asked)
        rival = adversarial_rounds.rival(config, zoo)
        kept = adversarial_rounds.kept(config, zoo, panel.asked)
        earlier, made = adversarial_rounds.earlier(config), reuse.recipe(config)
        reuse.sign(workdir, zoo, asked, made, renewed=earlier)
        pool = recover.recover(config, zoo, shape, map_tasks, workdir, stop, rival)
        logits = recover.ask(config, asked, pool.images, map_tasks, workdir, stop)
        if remote.hub_of(asked):
            images = most_answers(logits)
            pool = Pool(*(array[:images] for array in pool))
            logits = logits[:images]
    if hosts.is_writer():
        _draw(folder / "recovered.png", pool, zoo)
    pool, logits = reuse.joined([*kept, (pool, logits)])
    bank = None
    if panel.held_out.size:
        bank = bank_of_classes(pool, panel.held_out)
        seen = np.isin(pool.owners, panel.asked) | (pool.owners < 0)
        pool, logits = Pool(*(x[seen] for x in pool)), logits[seen]
    weights = np.isfinite(logits).all((0, 2)).astype(np.float32)
    if config.panel.trust:
        outputs = panel_lib.outputs_of(zoo.columns, panel.asked)
        owners = panel_lib.rows_of(pool.owners, panel.asked)
        images = SyntheticImages(pool.images, pool.classes, owners, pool.natural)
        trust = panel_lib.trust(_answers(logits), zoo.class_ids[outputs], images)
        weights = trust.weights
        if hosts.is_writer():
            # Row i is about the teacher that has this number in the whole zoo.
            told = {"teachers": panel.asked, **trust._asdict()}
            files.write_json(folder / "teachers.json", told)
        doubted = panel.asked[weights == 0]
        if doubted.size:
            print(
                f"{doubted.size} of {len(weights)} teachers tell little or contradict "
                f"the others and are left out: {doubted[:20].tolist()}; see "
                f"{folder / 'teachers.json'}",
                flush=True,
            )
    if not weights.any():
        raise InputError(f"{_NOBODY}; see {folder / 'teachers.json'}")
    described = Described(
        images=jnp.asarray(pool.images),
        logits=jnp.asarray(np.where(np.isfinite(logits), logits, 0.0)),
        weights=jnp.asarray(weights),
        recovered=jnp.asarray(pool.owners >= 0),
        natural=jnp.asarray(pool.natural),
    )
    return described, bank


def _answers(logits: np.ndarray) -> Answers:
    """Answers [N, T, W] of teachers with equal numbers of classes."""
    _, teachers, way = logits.shape
    columns = panel_lib.equal_columns(teachers, way)
    return Answers(logits.reshape(len(logits), -1), columns)


def most_answers(logits: np.ndarray) -> int:
    """How many images to use so that most answers are.

    Teachers whose budget ended, or that were given up, answered the first images only;
    a teacher counts if it answered all images that are used.

    Args:
      logits: [N, T, W], NaN where there is no answer.

    >>> most_answers(np.asarray([[0, 0], [0, 0], [0, np.nan]])[..., None])
    2
    """
    silent = np.isnan(logits).any(-1)
    answered = np.where(silent.any(0), silent.argmax(0), len(logits))
    counts = np.unique(answered)
    return int(max(counts, key=lambda n: n * (answered >= n).sum()))


def pre_inverted(
    config: Any,
    zoo: zoo_lib.Zoo,
    map_tasks: Callable,
    workdir: str,
    stop: stopping.StopRequest,
) -> ImageBank:
    """A memory of the images recovered from every teacher, by absolute class.

    The class is what its own teacher was asked for, or what all teachers together take
    the image for (``config.replay.labels``).

    Args:
      config: of the run.
      zoo: teachers.
      map_tasks: how the teachers of a chunk are spread.
      workdir: run directory.
      stop: polled between chunks.

    Raises:
      Stopped: stop was requested; finished chunks are kept.
      InputError: the panel's votes leave no episode, or there is nobody to vote.
    """
    if config.recover.reuse:
        everyone = np.arange(zoo.num_teachers)
        pool, logits = reuse.reuse(config, config.recover.reuse, zoo, everyone)
    else:
        reuse.sign(workdir, zoo, zoo, reuse.recipe(config))
        size = inputs.preset(config).image_size
        shape = (size, size, 3)
        pool = recover.recover(config, zoo, shape, map_tasks, workdir, stop)
    if config.replay.labels == "panel":
        if not config.recover.reuse:
            images = pool.images
            logits = recover.ask(config, zoo, images, map_tasks, workdir, stop)
        pool = pool._replace(classes=_voted(config, zoo, pool, logits))
    bank = bank_of_classes(pool, np.arange(zoo.num_classes))
    # The memory is full: what was written last comes last.
    return bank._replace(cursor=bank.counts)


def _voted(config: Any, zoo: zoo_lib.Zoo, pool: Pool, logits: np.ndarray) -> np.ndarray:
    """The class of each image by those teachers of a zoo that can be trusted."""
    answers, images = _answers(logits), SyntheticImages(*pool)
    trust = panel_lib.trust(answers, zoo.class_ids, images)
    believed = np.flatnonzero(trust.weights)
    if not believed.size:
        raise InputError(_NOBODY)
    ids = zoo.class_ids[panel_lib.outputs_of(zoo.columns, believed)]
    heard = panel_lib.answers_of(answers, believed)
    voted = panel_lib.vote(heard, ids, zoo.num_classes)
    needed = config.replay.shots + config.replay.queries
    enough = int((np.bincount(voted, minlength=zoo.num_classes) >= needed).sum())
    if enough < config.way:
        raise InputError(
            f"config.replay.labels=panel: {enough} classes are left with the {needed} "
            f"images (shots + queries) of an episode, which takes {config.way}; "
            "recover more images, ask for fewer queries, or use labels=owner"
        )
    print(
        f"{believed.size} of {zoo.num_teachers} teachers vote; they agree to "
        f"{100 * (voted == pool.classes).mean():.0f} % of the images' classes",
        flush=True,
    )
    return voted


def bank_of_classes(pool: Pool, classes: np.ndarray) -> ImageBank:
    """A row of recovered images for each of some absolute classes."""
    of_class = [pool.images[pool.classes == known] for known in classes]
    counts = np.asarray([len(images) for images in of_class], np.int32)
    images = np.zeros((len(classes), counts.max(), *pool.images.shape[1:]), np.uint8)
    for row, found in zip(images, of_class, strict=True):
        row[: len(found)] = found
    return banks.from_arrays(images, counts)


def _draw(file: epath.Path, pool: Pool, zoo: zoo_lib.Zoo) -> None:
    """Ten images of each of the first twelve classes, and a row of scenes."""
    rows, names = [], []
    for known in np.unique(pool.classes):
        of_class = pool.images[pool.classes == known][:10]
        if len(of_class) == 10 and len(rows) < 13:
            rows.append(of_class)
            names.append(zoo.class_names[known] if known >= 0 else "scenes")
    if rows:
        images = np.concatenate(rows)
        pictures.save_grid(file, images, rows=len(rows), labels=names)
