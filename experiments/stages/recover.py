"""Images and answers of a run: the library's pipeline, kept in its folder."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from experiments import inputs
from experiments.harness import files, hosts, pictures, sections
from experiments.harness.run import Run
from experiments.stages import adversarial_rounds, reuse
from experiments.stages.options import RecoverOptions
from free_jax import inversion, keys, panel
from free_jax import jobs as jobs_lib
from free_jax.errors import InputError
from free_jax.types import ImageBank, SyntheticImages
from free_jax.zoo import Zoo


def options(config: Any) -> panel.RecoverOptions:
    """Section ``recover`` as the library's record."""
    section = sections.read(RecoverOptions, config.recover, "config.recover")
    return panel.RecoverOptions(
        images_per_class=section.images_per_class,
        dead_leaves=section.dead_leaves,
        at_once=section.at_once,
        image_size=inputs.preset(config).image_size,
        inversion=section.inversion,
        meta_training=panel.MetaTraining(
            num_steps=section.meta_steps,
            teachers_per_step=section.meta_teachers,
            optimizer=section.meta_optimizer,
        ),
    )


def panel_options(config: Any) -> panel.PanelOptions:
    """Sections ``recover`` and ``panel`` as the library's record."""
    return panel.PanelOptions(recover=options(config), **sections.plain(config.panel))


def described(
    config: Any, zoo: Zoo, choice: panel.PanelChoice, run: Run
) -> panel.DescribedZoo:
    """Recovers images, asks the chosen teachers about them, and judges the teachers.

    Args:
      config: of the run; ``recover.reuse`` takes images and answers of an earlier run
        instead, ``recover.against`` adds to them.
      zoo: teachers that images are recovered from.
      choice: whose teachers describe every image.
      run: keeps the parts.

    Writes ``recovered.png`` and ``teachers.json`` (what each teacher is trusted).

    Raises:
      Stopped: stop was requested; finished parts are kept.
      InputError: no teacher is left to believe.
    """
    wanted, key = panel_options(config), run.key("recover")
    rival = None
    if config.recover.reuse:
        known = reuse.reuse(config, config.recover.reuse, zoo, choice.asked)
        nothing = wanted.recover._replace(images_per_class=0, dead_leaves=0)
        wanted = wanted._replace(recover=nothing)
    else:
        rival = adversarial_rounds.rival(config, zoo)
        if rival:  # Not the images of the earlier rounds again.
            key = keys.named(key, "round", rival.number)
        check(wanted.recover, zoo, rival)
        known = adversarial_rounds.kept(config, zoo, choice.asked)
        earlier = adversarial_rounds.earlier(config)
        reuse.sign(run.workdir, zoo, choice.asked, config, renewed=earlier)
    found = panel.describe_zoo(
        key,
        zoo,
        wanted,
        telling(run),
        known=known,
        choice=choice,
        adversaries=rival.adversaries() if rival else None,
        map_tasks=run.map_tasks,
    )
    if found.asked < found.made:
        print(
            f"the budget of queries ends after {found.asked} of {found.made} images",
            flush=True,
        )
    if hosts.is_writer():
        drawn = found.recovered or (known[0] if known else None)
        if drawn is not None:
            draw(run.path("recovered.png"), drawn, zoo)
        if found.trust:
            # Row i is about the teacher that has this number in the whole zoo.
            told = {"teachers": choice.asked, **found.trust._asdict()}
            files.write_json(run.path("teachers.json"), told)
    _tell_doubts(found, run)
    return found


def _tell_doubts(found: panel.DescribedZoo, run: Run) -> None:
    if found.trust is None:
        return
    weights = found.trust.weights
    doubted = found.choice.asked[weights == 0]
    if doubted.size:
        print(
            f"{doubted.size} of {len(weights)} teachers tell little or contradict "
            f"the others and are left out: {doubted[:20].tolist()}; see "
            f"{run.path('teachers.json')}",
            flush=True,
        )


def pre_inverted(config: Any, zoo: Zoo, run: Run) -> ImageBank:
    """A memory of the images recovered from every teacher, by absolute class.

    The class is what its own teacher was asked for, or what all teachers together take
    the image for (``config.labels``).

    Args:
      config: of the run.
      zoo: teachers.
      run: keeps the parts.

    Raises:
      Stopped: stop was requested; finished parts are kept.
      InputError: the panel's votes leave no episode, or no teacher is trusted.
    """
    everyone, answers = np.arange(zoo.num_teachers), None
    if config.recover.reuse:
        images, answers = reuse.reuse(config, config.recover.reuse, zoo, everyone)
    else:
        wanted = options(config)
        check(wanted, zoo)
        reuse.sign(run.workdir, zoo, everyone, config)
        images = panel.recover_zoo(
            run.key("recover"), zoo, wanted, telling(run), map_tasks=run.map_tasks
        )
    if config.labels == "panel":
        if answers is None:
            answers = panel.ask_zoo(
                zoo, images.images, telling(run), map_tasks=run.map_tasks
            )
        voted = panel.voted_classes(zoo, images, answers)
        _check_votes(config, zoo, images, voted)
        images = images._replace(classes=voted.classes)
    bank = panel.bank_of_classes(images, np.arange(zoo.num_classes))
    # The memory is full: what was written last comes last.
    return bank._replace(cursor=bank.counts)


def _check_votes(
    config: Any, zoo: Zoo, images: SyntheticImages, voted: panel.Voted
) -> None:
    needed = config.replay.shots + config.replay.queries
    counts = np.bincount(voted.classes, minlength=zoo.num_classes)
    enough = int((counts >= needed).sum())
    if enough < config.way:
        raise InputError(
            f"config.labels=panel: {enough} classes are left with the {needed} "
            f"images (shots + queries) of an episode, which takes {config.way}; "
            "recover more images, ask for fewer queries, or use labels=owner"
        )
    print(
        f"{voted.voters} of {zoo.num_teachers} teachers vote; they agree to "
        f"{100 * (voted.classes == images.classes).mean():.0f} % of the images' "
        "classes",
        flush=True,
    )


def check(
    wanted: panel.RecoverOptions,
    zoo: Zoo,
    rival: adversarial_rounds.Rival | None = None,
) -> None:
    """Refuses an inversion that does not fit, before anything is computed.

    Raises:
      InputError: names the section.
    """
    student = rival.student if rival else None
    for network in zoo.networks if wanted.images_per_class else ():
        try:
            inversion.build(wanted.inversion, network, student)
        except ValueError as error:
            raise InputError(f"config.recover: {error}") from None


def telling(run: Run) -> jobs_lib.Run:
    """`Run.cached`, which also says what the recovered images are worth."""

    def cached(
        stage: str, jobs: Sequence[jobs_lib.Job]
    ) -> Iterator[dict[str, np.ndarray]]:
        count, known = 0, []
        for result in run.cached(stage, jobs):
            if "images" in result:
                count += len(result["images"])
                known.append(result.get("teacher_accuracy", np.zeros(0)))
            yield result
        accuracy = np.concatenate([np.zeros(0), *known])
        if accuracy.size:
            print(
                f"recovered {count} images; their teachers know "
                f"{100 * accuracy.mean():.1f} % of their own",
                flush=True,
            )

    return cached


def draw(file: epath.Path, images: SyntheticImages, zoo: Zoo) -> None:
    """Ten images of each of the first twelve classes, and a row of dead leaves."""
    rows, names = [], []
    for known in np.unique(images.classes):
        of_class = images.images[images.classes == known][:10]
        if len(of_class) == 10 and len(rows) < 13:
            rows.append(of_class)
            names.append(zoo.class_names[known] if known >= 0 else "dead leaves")
    if rows:
        grid = np.concatenate(rows)
        pictures.save_grid(file, grid, rows=len(rows), labels=names)
