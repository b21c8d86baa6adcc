"""Images and answers that an earlier panel run left in its working directory."""

import contextlib
import hashlib
import json
import os
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from experiments.harness import chunks, files, hosts, sections
from experiments.harness.chunks import DAMAGED, finished, open_chunk, read_chunk
from experiments.harness.contents import Content, Contents
from experiments.harness.same_run import CONFIG_FILE
from experiments.inputs import former_keys
from experiments.inputs.contents import fingerprint, of_file
from experiments.stages.options import Recovery
from free_jax import inversion, panel
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.model_io import MODEL_FILE
from free_jax.panel.partial_answers import of_images
from free_jax.panel.partial_asking import answers_in
from free_jax.rows import chosen
from free_jax.types import Answers, SyntheticImages

SIGNATURE_FILE = "zoo.json"
_SOURCE, _INIT = "recover.inversion.source", "recover.inversion.init"
META_TRAINING = "meta_generator"
Known = tuple[SyntheticImages, Answers]


class Part(NamedTuple):
    """That the teachers at hand were chosen from more.

    Attributes:
      zoo: names all of them, see `contents.fingerprint`.
      rows: [t] those at hand among all, increasing.
    """

    zoo: str
    rows: np.ndarray


def recipe(wanted: panel.RecoverOptions, seed: int) -> dict[str, Any]:
    """How a run's images are made: ``source``, where its inversions ``init``, ..."""
    return _recipe(files.flatten({"recover": sections.plain(wanted), "seed": seed}))


def _recipe(flat: dict[str, Any]) -> dict[str, Any]:
    flat = former_keys.NAMES.upgraded(flat)  # It may be an earlier run's.
    source, init = flat.get(_SOURCE), flat.get(_INIT)
    leaves = source == "pixels" and init == "dead_leaves"
    keys = ("inversion.num_steps", "images_per_class", "dead_leaves")
    keys += ("meta_training.num_steps",)
    return {
        "source": source,
        "init": "dead_leaves" if leaves else "noise",  # Generators' latents too.
        **{key: flat.get(f"recover.{key}") for key in keys},
        "seed": flat.get("seed"),
    }


def sign(
    workdir: str,
    zoo: zoo_lib.Zoo,
    asked: np.ndarray,
    recipe: dict[str, Any],
    *,
    renewed: str = "",
) -> None:
    """Notes in ``<workdir>/recovered`` how images are made there, and who answers.

    Args:
      workdir: run directory.
      zoo: teachers that images are recovered from.
      asked: rows of the teachers that are asked.
      recipe: see `recipe`.
      renewed: the earlier run whose images and answers this one adds to.

    Raises:
      InputError: images of other teachers are there already.
    """
    file = _signature(workdir)
    now = _checked(workdir, zoo, asked, renewed)

    def write() -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        # The second is for folders that moved together.
        beside = os.path.relpath(renewed, workdir) if _is_local(renewed) else ""
        place = {"renewed": renewed, "renewed_beside": beside}
        files.write_json(file, now | place | {"recipe": recipe})

    hosts.first_only(write)


def check_signature(
    workdir: str, zoo: zoo_lib.Zoo, asked: np.ndarray, *, renewed: str = ""
) -> None:
    """Refuses what `sign` would refuse; nothing is written.

    Args:
      workdir: run directory.
      zoo: teachers that images are recovered from.
      asked: rows of the teachers that are asked.
      renewed: the earlier run whose images and answers this one adds to.

    Raises:
      InputError: images of other teachers are there already.
    """
    _checked(workdir, zoo, asked, renewed)


def _checked(
    workdir: str, zoo: zoo_lib.Zoo, asked: np.ndarray, renewed: str
) -> dict[str, Any]:
    now = {
        "zoo": fingerprint(zoo),
        "asked": fingerprint(zoo_lib.select(zoo, asked)),
        "renewed_content": _content_of(renewed),
    }

    def check() -> None:
        file, before = _signature(workdir), signature_of(workdir)
        if not file.exists():
            return
        # A run of an earlier version noted where the one before it was, nothing else.
        known = before.get("renewed_content")
        other = known != now["renewed_content"]
        if known is None:
            other = before.get("renewed", "") != renewed
        if other or any(before.get(key) != now[key] for key in ("zoo", "asked")):
            raise InputError(
                f"{file.parent} holds images of other teachers: the zoo has changed "
                "since; use another --workdir"
            )

    hosts.first_only(check)
    return now


def contents(section: Recovery) -> Contents:
    """The earlier runs that a section names, by what they hold.

    Images and answers are told by names and sizes of their files, how they were made,
    whose they are, and the first of them; a model by its bytes.
    """
    found = {"images": _content_of(section.reuse)}
    reused = Content(("recover.reuse",), _known(found), ("images",))
    found = {"images": _content_of(section.against), "model": ""}
    if section.against:
        model = of_file("", f"{section.against}/{MODEL_FILE}").parts or {}
        found["model"] = model.get("bytes", "")
    against = Content(("recover.against",), _known(found), ("images", "model"))
    return {"images of recover.reuse": reused, "run of recover.against": against}


def _known(parts: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in parts.items() if value}


def _content_of(folder: str) -> str:
    """Twelve hex digits that name images and answers of a run; "" where none are."""
    if not folder:
        return ""
    digest, some = hashlib.sha256(), False
    for run in lineage(folder):
        signed = signature_of(run)
        told = [signed.get(key) for key in ("zoo", "asked", "recipe")]
        digest.update(json.dumps(told, sort_keys=True).encode())
        for stage in ("recovered", "described"):
            kept = finished(run, stage)
            sizes = [(file.name, file.stat().length) for file in kept]
            digest.update(json.dumps(sizes).encode())
            if kept and stage == "recovered":
                some = True
                with contextlib.suppress(*DAMAGED):  # Told where it is read.
                    digest.update(read_chunk(kept[0])["images"].tobytes())
    return digest.hexdigest()[:12] if some else ""


def _signature(workdir: str) -> epath.Path:
    return epath.Path(workdir) / "recovered" / SIGNATURE_FILE


def signature_of(workdir: str) -> dict[str, Any]:
    """What a run noted of how its images were made; empty where it noted nothing."""
    file = _signature(workdir)
    return json.loads(file.read_text()) if file.exists() else {}


def lineage(workdir: str) -> list[str]:
    """A run and those whose images it renewed, oldest first."""
    signed = signature_of(workdir)
    before, beside = signed.get("renewed"), signed.get("renewed_beside")
    if before and beside and not _signature(before).exists():
        before = os.path.normpath(os.path.join(workdir, beside))
    return [*(lineage(before) if before else []), str(workdir)]


def _is_local(folder: str) -> bool:
    return bool(folder) and "://" not in folder


def seconds_recovering(workdir: str) -> float:
    """What recovery in a working directory took, meta-training included."""
    # Runs of earlier versions noted the time of a meta-training in a file of its own.
    notes = epath.Path(workdir).glob(f"{META_TRAINING}/*/seconds.txt")
    noted = sum(float(file.read_text()) for file in notes)
    return noted + chunks.seconds_spent(workdir, META_TRAINING, "recovered")


def reuse(
    folder: str,
    zoo: zoo_lib.Zoo,
    asked: np.ndarray,
    wanted: panel.RecoverOptions,
    part: Part | None = None,
) -> Known:
    """Images and answers of an earlier run, as far as this run asks for them.

    Args:
      folder: the earlier run's working directory.
      zoo: the teachers, which must be the earlier run's, or chosen from them.
      asked: [T'] rows over these teachers: whose answers are wanted.
      wanted: ``images_per_class`` and ``dead_leaves`` may be smaller than the earlier
        run's.
      part: where these teachers were chosen from more.

    Raises:
      InputError: the folder holds no finished images and answers, fewer, or those of
        other teachers.
    """
    images, answers = everything("reuse", folder, zoo, asked, part)
    keep = []
    if wanted.images_per_class:
        quota = panel.quota_of(wanted)
        for owner, way in enumerate(np.diff(zoo.columns)):
            network = zoo.groups[zoo.locate(owner)[0]].network
            if not inversion.invertible(wanted.inversion, network):
                continue
            most = quota.images(int(way))
            # Labels run through the classes: the first ones hold each equally often.
            keep.append(np.flatnonzero(images.owners == owner)[:most])
            found = len(keep[-1])
            if most < wanted.images_per_class * int(way):  # The other key decides.
                _check_enough(folder, "images_per_teacher", found, most)
            each = min(int(way), most)  # Its classes, or those that are drawn of it.
            _check_enough(folder, "images_per_class", found // each, most // each)
    keep.append(np.flatnonzero(images.owners < 0)[: wanted.dead_leaves])
    _check_enough(folder, "dead_leaves", len(keep[-1]), wanted.dead_leaves)
    index = np.concatenate(keep)
    found = SyntheticImages(*(chosen(x, index) for x in images))
    return found, of_images(answers, index)


def everything(
    key: str,
    folder: str,
    zoo: zoo_lib.Zoo,
    asked: np.ndarray,
    part: Part | None = None,
) -> Known:
    """All images and answers of an earlier run and of those that it renewed.

    Args:
      key: of ``config.recover`` that names the folder, for what is said of it.
      folder: the earlier run's working directory.
      zoo: the teachers, which must be the earlier run's, or chosen from them.
      asked: [T'] rows over these teachers: whose answers are wanted.
      part: where these teachers were chosen from more.

    Raises:
      InputError: a folder holds no finished images and answers, or those of other
        teachers.
    """
    name = f"config.recover.{key}={folder}"
    return panel.joined(
        [_one_run(name, run, zoo, asked, part) for run in lineage(folder)]
    )


def _one_run(
    name: str, folder: str, zoo: zoo_lib.Zoo, asked: np.ndarray, part: Part | None
) -> Known:
    recovered, described = (finished(folder, s) for s in ("recovered", "described"))
    if not recovered or not described:
        raise InputError(
            f"{name}: no recovered images and answers in the folders recovered and "
            f"described of {folder}; give the workdir of a panel run"
        )
    parts = [_opened(name, file, ("images",)) for file in recovered]
    images = _images(parts, folder)
    try:
        answers = _answers([_opened(name, file) for file in described])
    except InputError as error:
        raise InputError(
            f"{name}: {error} in {folder}; let that run finish first"
        ) from error
    if len(answers.logits) != len(images.images):
        raise InputError(
            f"{name}: {len(images.images)} images but answers about "
            f"{len(answers.logits)} in {folder}; let that run finish first"
        )
    if part is not None and _all_answered(folder, part, answers):
        return _of_part(images, answers, part.rows, asked)
    if _asked_all(name, folder, zoo, images, answers, asked):
        answers = panel.answers_of(answers, asked)
    return images, answers


def _all_answered(folder: str, part: Part, answers: Answers) -> bool:
    """Whether all that some were chosen from told what they say of every image."""
    signed = signature_of(folder)
    same = signed.get("zoo") == signed.get("asked") == part.zoo
    return same and answers.teachers is None


def _of_part(
    images: SyntheticImages, answers: Answers, rows: np.ndarray, asked: np.ndarray
) -> Known:
    """Images of some teachers, and of none, with what those of them say who are asked.

    Owners are numbered as these teachers are.
    """
    owners = np.asarray(images.owners)
    mine = np.flatnonzero((owners < 0) | np.isin(owners, rows))
    images = SyntheticImages(*(chosen(x, mine) for x in images))
    owners = owners[mine]
    renumbered = np.where(owners < 0, owners, np.searchsorted(rows, owners))
    said = of_images(panel.answers_of(answers, rows[asked]), mine)
    return images._replace(owners=renumbered.astype(owners.dtype)), said


def _opened(
    name: str, file: epath.Path, by_rows: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A chunk; arrays of some names are read when they are used.

    Raises:
      InputError: it is damaged.
    """
    try:
        read_chunk(file)  # Rows that are read later are not compared with a sum.
    except DAMAGED as error:
        raise InputError(
            f"{name}: {file} is damaged ({error}); run that run's command again, which "
            "makes it anew"
        ) from None
    return open_chunk(file, by_rows)


def _images(parts: list[dict[str, Any]], folder: str) -> SyntheticImages:
    """The images of some chunks; those of earlier versions know no ``natural``."""
    if any("natural" not in part for part in parts):
        leaves = _made(folder).get("init") == "dead_leaves"
        for part in parts:
            part.setdefault("natural", (part["owners"] < 0) | leaves)
    return inversion.images_of(parts)


def _answers(parts: list[dict[str, np.ndarray]]) -> Answers:
    """The answers of some chunks; those of earlier versions are [n, T, W]."""
    if some := [part for part in parts if "teachers" in part]:
        return answers_in(some)
    logits = np.concatenate([part["logits"] for part in parts])
    if logits.ndim == 3:
        columns = panel.equal_columns(*logits.shape[1:])
        return Answers(logits.reshape(len(logits), -1), columns)
    answers = Answers(logits, parts[0]["columns"])
    # Some teachers asked, as it was first kept: NaN of the others.
    return panel.from_silence(answers) if "asked" in parts[0] else answers


def _made(folder: str) -> dict[str, Any]:
    """The recipe of an earlier run's images; empty, and said so, if it is unknown."""
    if made := signature_of(folder).get("recipe"):
        return made
    # Images that were signed without: the run's config says it too.
    try:
        config = (epath.Path(folder) / CONFIG_FILE).read_text()
        flat = files.flatten(json.loads(config))
    except (OSError, ValueError):
        flat = {}
    if {_SOURCE, _INIT} <= former_keys.NAMES.upgraded(flat).keys():
        return _recipe(flat)
    print(
        f"{folder} does not say how its images were made (neither "
        f"recovered/{SIGNATURE_FILE} nor {CONFIG_FILE}): no model is calibrated on "
        "what was recovered there",
        flush=True,
    )
    return {}


def _check_enough(folder: str, key: str, found: int, asked: int) -> None:
    if found < asked:
        raise InputError(
            f"config.recover.reuse={folder} holds {key}={found}, fewer than "
            f"config.recover.{key}={asked}; ask for at most {found}"
        )


def _asked_all(
    name: str,
    folder: str,
    zoo: zoo_lib.Zoo,
    images: SyntheticImages,
    answers: Answers,
    asked: np.ndarray,
) -> bool:
    """Whether the answers are those of the whole zoo; else they are those of `asked`.

    Raises:
      InputError: they are of other teachers.
    """
    signed, count = signature_of(folder), len(answers.columns) - 1
    everyone = not signed or signed["asked"] == signed["zoo"]
    if everyone and count <= asked.max():
        raise InputError(
            f"{name} asked {count} teachers, fewer "
            f"than this run; set --config.panel.teachers to at most what it asked"
        )
    if signed:
        same = signed["zoo"] == fingerprint(zoo)
    else:  # An older run: at least the classes must be those of the teachers.
        same = _known_to_owners(zoo, images)
    if not same:
        raise InputError(
            f"{name}: its images and answers come from other "
            "teachers; give the same config.zoo, or recover anew without it"
        )
    if not everyone and signed["asked"] != fingerprint(zoo_lib.select(zoo, asked)):
        raise InputError(
            f"{name} asked {count} teachers of the zoo, not the {len(asked)} that this "
            "run asks; give the same config.panel and seed, or recover anew without it"
        )
    return everyone


def _known_to_owners(zoo: zoo_lib.Zoo, images: SyntheticImages) -> bool:
    """Whether every owner knows the classes that were recovered from it."""
    ids = np.split(zoo.class_ids, zoo.columns[1:-1])
    pairs = np.unique(np.stack([images.owners, images.classes]), axis=1).T
    return all(
        owner < 0 or (owner < len(ids) and known in ids[owner])
        for owner, known in pairs
    )
