"""Images and answers of a run: the library's jobs, kept in its folder."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from etils import epath

from experiments.evaluation import samples
from experiments.harness import files, hosts, page, pictures
from experiments.harness.run import Run
from experiments.stages import adversarial_rounds, as_made, choosing, reuse
from free_jax import inversion, keys, nouns, panel
from free_jax import jobs as jobs_lib
from free_jax.errors import InputError
from free_jax.types import ImageBank, SyntheticImages
from free_jax.zoo import Zoo


class Beginning(NamedTuple):
    """What is there before anything is recovered.

    Attributes:
      wanted: what is recovered in this run.
      known: images and answers of earlier runs; None where there are none.
      student: of an earlier run, which new images should be new to; None for none.
      reuse_of: run whose images and answers are taken instead; empty for none.
      against: run to whose images and answers others are added; empty for none.
    """

    wanted: panel.RecoverOptions
    known: reuse.Known | None = None
    student: adversarial_rounds.EarlierStudent | None = None
    reuse_of: str = ""
    against: str = ""


def beginning(
    zoo: Zoo,
    asked: np.ndarray,
    run: Run,
    wanted: panel.RecoverOptions,
    *,
    reuse_of: str = "",
    against: str = "",
) -> Beginning:
    """Reads earlier runs and refuses what would fail later; nothing is written.

    Args:
      zoo: teachers that images are recovered from.
      asked: rows of the teachers that describe every image.
      run: only looked at.
      wanted: which images.
      reuse_of: run whose images and answers are taken instead; empty for none.
      against: run to whose images and answers others are added; empty for none.

    Raises:
      InputError: an inversion that does not fit, an earlier run that is not as asked
        for, or images of other teachers in the run's own folder.
    """
    if reuse_of:
        part = choosing.part_of(run)
        known = reuse.reuse(reuse_of, zoo, asked, wanted, part)
        size = known[0].images.shape[1]
        if other := as_made.made_otherwise(reuse_of, wanted, size):
            print(other, flush=True)
        nothing = wanted._replace(images_per_class=0, dead_leaves=0)
        return Beginning(nothing, known, reuse_of=reuse_of)
    student = adversarial_rounds.earlier_student(against, zoo)
    check(wanted, zoo, student)
    known = adversarial_rounds.kept(against, zoo, asked)
    if known:
        adversarial_rounds.check_size(against, known, wanted.image_size)
    before = adversarial_rounds.earlier(against)
    reuse.check_signature(run.workdir, zoo, asked, renewed=before)
    return Beginning(wanted, known, student, against=against)


def described(
    zoo: Zoo,
    choice: panel.PanelChoice,
    run: Run,
    options: panel.PanelOptions,
    begun: Beginning,
) -> panel.DescribedZoo:
    """Recovers images, asks the chosen teachers about them, and judges the teachers.

    Args:
      zoo: teachers that images are recovered from.
      choice: whose teachers describe every image.
      run: keeps the parts.
      options: who is asked what, and whether teachers are judged.
      begun: `beginning` with the same teachers: which images, and what is there.

    Writes ``recovered.png``, ``teachers.json`` (what each teacher is trusted, and why
    not) and ``samples.npz`` (images and answers for the run's page).

    Raises:
      Stopped: stop was requested; finished parts are kept.
      InputError: no teacher is left to believe.
    """
    asked, key = choice.everyone, run.key("recover")
    wanted, known, student = begun.wanted, begun.known, begun.student
    if student:  # Not the images of the earlier rounds again.
        key = keys.named(key, "round", student.number)
    if not begun.reuse_of:
        recipe = reuse.recipe(wanted, run.seed)
        before = adversarial_rounds.earlier(begun.against)
        reuse.sign(run.workdir, zoo, asked, recipe, renewed=before)
    found = panel.describe_zoo(
        key,
        zoo,
        options._replace(recover=wanted),
        telling(run),
        known=known,
        choice=choice,
        adversaries=student.adversaries() if student else None,
        map_tasks=run.map_tasks,
        split=run.split,
    )
    if found.asked < found.made:
        print(
            f"the budget of queries ends after {found.asked} of "
            f"{nouns.count(found.made, 'image')}",
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
        if found.images is not None:
            page.attempted("samples", lambda: _keep_samples(found, zoo, run))
    _tell_doubts(found, zoo, run)
    return found


def _keep_samples(found: panel.DescribedZoo, zoo: Zoo, run: Run) -> None:
    """For the run's page."""
    assert found.images is not None
    names, asked = samples.names_of(zoo), found.choice.asked
    shown = samples.chosen(names, found.images, found.answers, asked)
    samples.write(run.path(samples.SAMPLES_FILE), shown)


def _tell_doubts(found: panel.DescribedZoo, zoo: Zoo, run: Run) -> None:
    if found.trust is None:
        return
    weights = found.trust.weights
    doubted = found.choice.asked[weights == 0]
    if doubted.size:
        names = [zoo.sources[row] for row in doubted[:20]]
        print(
            f"{doubted.size} of {len(weights)} teachers tell little or contradict "
            f"the others and are left out: {', '.join(names)}; see "
            f"{run.path('teachers.json')}",
            flush=True,
        )


def pre_inverted(
    zoo: Zoo,
    run: Run,
    begun: Beginning,
    *,
    labels: Literal["owner", "panel"] = "owner",
    way: int,
    images_per_episode: int,
) -> ImageBank:
    """A memory of the images recovered from every teacher, by absolute class.

    Args:
      zoo: teachers.
      run: keeps the parts.
      begun: `beginning` with all teachers: which images, and what is there.
      labels: an image's class is what its own teacher was asked for ("owner"), or what
        all teachers together take it for ("panel").
      way: classes of an episode.
      images_per_episode: shots and queries of a class.

    Raises:
      Stopped: stop was requested; finished parts are kept.
      InputError: the panel's votes leave no episode, or no teacher is trusted.
    """
    wanted, answers = begun.wanted, None
    if begun.known:
        images, answers = begun.known
    else:
        everyone = np.arange(zoo.num_teachers)
        reuse.sign(run.workdir, zoo, everyone, reuse.recipe(wanted, run.seed))
        images = panel.recover_zoo(
            run.key("recover"), zoo, wanted, telling(run), map_tasks=run.map_tasks
        )
    if labels == "panel":
        if answers is None:
            answers = panel.ask_zoo(
                zoo, images.images, telling(run), map_tasks=run.map_tasks
            )
        voted = panel.voted_classes(zoo, images, answers)
        _check_votes(zoo, images, voted, way, images_per_episode)
        images = images._replace(classes=voted.classes)
    bank = panel.bank_of_classes(images, np.arange(zoo.num_classes))
    # The memory is full: what was written last comes last.
    return bank._replace(cursor=bank.counts)


def _check_votes(
    zoo: Zoo, images: SyntheticImages, voted: panel.Voted, way: int, needed: int
) -> None:
    told = voted.classes[voted.classes >= 0]
    counts = np.bincount(told, minlength=zoo.num_classes)
    enough = int((counts >= needed).sum())
    if enough < way:
        raise InputError(
            f"config.labels=panel: {enough} classes are left with the {needed} "
            f"images (shots + queries) of an episode, which takes {way}; "
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
    student: adversarial_rounds.EarlierStudent | None = None,
) -> None:
    """Refuses an inversion that does not fit, before anything is computed.

    Raises:
      InputError: names the section.
    """
    adversary = student.network if student else None
    recipe = wanted.inversion
    if not wanted.images_per_class:
        return
    able = [n for n in zoo.networks if inversion.invertible(recipe, n)]
    for network in able or zoo.networks:
        try:
            inversion.build(inversion.suited(recipe, network), network, adversary)
        except ValueError as error:
            raise InputError(f"config.recover: {error}") from None


class Spent(NamedTuple):
    """Seconds that a run's images took.

    Attributes:
      before: with asking, and with the earlier run that it adds to.
      making_images: of these; None where there are images and nobody knows.
    """

    before: float
    making_images: float | None


def spent(folder: str, images: int) -> Spent:
    """What was spent on the images of a run before its first step.

    Args:
      folder: run directory that keeps them: of this run, or of the one it reuses.
      images: how many were recovered.
    """
    making = sum(map(reuse.seconds_recovering, reuse.lineage(folder)))
    known = making if making and images else None if images else 0.0
    return Spent(adversarial_rounds.seconds_before(folder), known)


def gradients(reuse_of: str, images: int, wanted: panel.RecoverOptions) -> int:
    """Of single images, that their inversion took: as they were made, in a run before.

    Args:
      reuse_of: run whose images are taken; empty for none.
      images: how many were recovered.
      wanted: how this run would recover them.
    """
    steps = as_made.inversion_steps(reuse_of) if reuse_of else None
    return images * (wanted.inversion.num_steps if steps is None else steps)


def telling(run: Run) -> jobs_lib.Run:
    """`Run.cached`, which also says what the recovered images are worth."""

    def cached(stage: str, jobs: Sequence[jobs_lib.Job]) -> Iterator[dict[str, Any]]:
        made, known = 0, []
        for result in run.cached(stage, jobs):
            if "owners" in result:
                made += int((result["owners"] >= 0).sum())  # Not dead leaves.
                known.append(result.get("teacher_accuracy", np.zeros(0)))
            yield result
        accuracy = np.concatenate([np.zeros(0), *known])
        if accuracy.size:
            print(
                f"recovered {nouns.count(made, 'image')}; their teachers know "
                f"{100 * accuracy.mean():.1f} % of their own",
                flush=True,
            )

    return cached


def draw(file: epath.Path, images: SyntheticImages, zoo: Zoo) -> None:
    """At most ten images of each of the first classes, and a row of dead leaves."""
    found, counts = np.unique(images.classes, return_counts=True)
    columns = min(10, int(counts.max(initial=0)))
    rows, names = [], []
    leaves = found < 0
    for known in [*found[~leaves][:12], *found[leaves]]:
        of_class = np.asarray(images.images[images.classes == known][:columns])
        # A few images of a class are shown as well: the rest of its row is white.
        white = np.full((columns - len(of_class), *of_class.shape[1:]), 255, np.uint8)
        rows.append(np.concatenate([of_class, white]))
        names.append(zoo.class_names[known] if known >= 0 else "dead leaves")
    if rows:
        grid = np.concatenate(rows)
        pictures.save_grid(file, grid, rows=len(rows), labels=names)
