"""Images and answers that an earlier panel run left in its working directory."""

import hashlib
import json
from typing import Any

import jax
import numpy as np
from etils import epath

from experiments.harness import files, hosts
from experiments.harness.chunks import Pool, finished, read_chunk
from experiments.harness.workdir import CONFIG_FILE
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError

SIGNATURE_FILE = "zoo.json"


def recipe(config: Any) -> dict[str, Any]:
    """How a run's images are made: ``source``, where its inversions ``init``, ..."""
    return _recipe(files.flatten(config))


def _recipe(flat: dict[str, Any]) -> dict[str, Any]:
    source, start = flat.get("recover.backend"), flat.get("recover.start")
    scenes = source == "pixels" and start == "scenes"
    keys = ("num_steps", "images_per_class", "scenes")
    return {
        "source": source,
        "init": "dead_leaves" if scenes else "noise",  # Generators' latents too.
        **{key: flat.get(f"recover.{key}") for key in keys},
        "seed": flat.get("seed"),
    }


def pool_of(parts: list[dict[str, np.ndarray]], made: dict[str, Any]) -> Pool:
    """The pool of some chunks that were made by one recipe."""
    images, classes, owners = (
        np.concatenate([part[name] for part in parts])
        for name in ("images", "classes", "owners")
    )
    natural = (owners < 0) | (made.get("init") == "dead_leaves")
    return Pool(images, classes, owners, natural)


def sign(
    workdir: str,
    zoo: zoo_lib.Zoo,
    asked: zoo_lib.Zoo,
    made: dict[str, Any],
    *,
    renewed: str = "",
) -> None:
    """Notes in ``<workdir>/recovered`` how images are made there, and who answers.

    Args:
      workdir: run directory.
      zoo: teachers that images are recovered from.
      asked: teachers that are asked.
      made: `recipe` of the images.
      renewed: the earlier run whose images and answers this one adds to.

    Raises:
      InputError: images of other teachers are there already.
    """
    file = _signature(workdir)
    now = {"zoo": fingerprint(zoo), "asked": fingerprint(asked), "renewed": renewed}

    def check() -> None:
        before = {"renewed": ""} | _signed(workdir)
        if file.exists() and any(before.get(key) != now[key] for key in now):
            raise InputError(
                f"{file.parent} holds images of other teachers: the zoo has changed "
                "since; use another --workdir"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(file, now | {"recipe": made})

    hosts.first_only(check)


def _signature(workdir: str) -> epath.Path:
    return epath.Path(workdir) / "recovered" / SIGNATURE_FILE


def _signed(workdir: str) -> dict[str, Any]:
    file = _signature(workdir)
    return json.loads(file.read_text()) if file.exists() else {}


def lineage(workdir: str) -> list[str]:
    """A run and those whose images it renewed, oldest first."""
    before = _signed(workdir).get("renewed")
    return [*(lineage(before) if before else []), str(workdir)]


def reuse(
    config: Any, folder: str, zoo: zoo_lib.Zoo, asked: np.ndarray
) -> tuple[Pool, np.ndarray]:
    """Images and answers of an earlier run, as far as this run asks for them.

    Args:
      config: of this run; ``recover.images_per_class``, ``recover.scenes`` and
        ``panel.teachers`` may be smaller than the earlier run's.
      folder: the earlier run's working directory.
      zoo: the teachers, which must be the earlier run's.
      asked: [T'] indices over all teachers: whose answers are wanted.

    Raises:
      InputError: the folder holds no finished pool, a smaller one, or one of other
        teachers.
    """
    pool, logits = everything("reuse", folder, zoo, asked)
    keep = []
    if config.recover.images_per_class:
        most = config.recover.images_per_class * config.way
        for owner in range(zoo.num_teachers):
            # Labels run through the classes: the first ones hold each equally often.
            keep.append(np.flatnonzero(pool.owners == owner)[:most])
            _check_enough(
                folder, "images_per_class", len(keep[-1]) // config.way, config.recover
            )
    keep.append(np.flatnonzero(pool.owners < 0)[: config.recover.scenes])
    _check_enough(folder, "scenes", len(keep[-1]), config.recover)
    index = np.concatenate(keep)
    return Pool(*(x[index] for x in pool)), logits[index]


def everything(
    key: str, folder: str, zoo: zoo_lib.Zoo, asked: np.ndarray
) -> tuple[Pool, np.ndarray]:
    """All images and answers of an earlier run and of those that it renewed.

    Args:
      key: of ``config.recover`` that names the folder, for what is said of it.
      folder: the earlier run's working directory.
      zoo: the teachers, which must be the earlier run's.
      asked: [T'] indices over all teachers: whose answers are wanted.

    Raises:
      InputError: a folder holds no finished pool, or one of other teachers.
    """
    name = f"config.recover.{key}={folder}"
    return joined([_one_pool(name, run, zoo, asked) for run in lineage(folder)])


def joined(parts: list[tuple[Pool, np.ndarray]]) -> tuple[Pool, np.ndarray]:
    """All images and answers, in this order."""
    pools, answers = zip(*parts, strict=True)
    return Pool(*map(np.concatenate, zip(*pools, strict=True))), np.concatenate(answers)


def _one_pool(
    name: str, folder: str, zoo: zoo_lib.Zoo, asked: np.ndarray
) -> tuple[Pool, np.ndarray]:
    recovered, described = (finished(folder, s) for s in ("recovered", "described"))
    if not recovered or not described:
        raise InputError(
            f"{name}: no recovered images and answers in the folders recovered and "
            f"described of {folder}; give the workdir of a panel run"
        )
    parts = [read_chunk(file) for file in recovered]
    pool = pool_of(parts, _made(folder))
    logits = np.concatenate([read_chunk(file)["logits"] for file in described])
    if len(logits) != len(pool.images):
        raise InputError(
            f"{name}: {len(pool.images)} images but answers about {len(logits)} in "
            f"{folder}; let that run finish first"
        )
    _check_teachers(name, folder, zoo, pool, logits, asked)
    return pool, logits[:, asked]


def _made(folder: str) -> dict[str, Any]:
    """The recipe of an earlier run's images; empty, and said so, if it is unknown."""
    if made := _signed(folder).get("recipe"):
        return made
    # A pool that was signed without: the run's config says it too.
    try:
        config = (epath.Path(folder) / CONFIG_FILE).read_text()
        flat = files.flatten(json.loads(config))
    except (OSError, ValueError):
        flat = {}
    if {"recover.backend", "recover.start"} <= flat.keys():
        return _recipe(flat)
    print(
        f"{folder} does not say how its images were made (neither "
        f"recovered/{SIGNATURE_FILE} nor {CONFIG_FILE}): no model is calibrated on "
        "what was recovered there",
        flush=True,
    )
    return {}


def _check_enough(folder: str, key: str, found: int, wanted: Any) -> None:
    if found < wanted[key]:
        raise InputError(
            f"config.recover.reuse={folder} holds {key}={found}, fewer than "
            f"config.recover.{key}={wanted[key]}; ask for at most {found}"
        )


def _check_teachers(
    name: str,
    folder: str,
    zoo: zoo_lib.Zoo,
    pool: Pool,
    logits: np.ndarray,
    asked: np.ndarray,
) -> None:
    if logits.shape[1] <= asked.max():
        raise InputError(
            f"{name} asked {logits.shape[1]} teachers, fewer "
            f"than this run; set --config.panel.teachers to at most what it asked"
        )
    if signed := _signed(folder):
        # Answers of part of the zoo stand in other columns than those of all of it.
        all_asked = signed["asked"] == signed["zoo"]
        same = signed["zoo"] == fingerprint(zoo)
        same &= all_asked or logits.shape[1] == len(asked)
    else:  # An older run: at least the classes must be those of the teachers.
        ids = np.concatenate([np.asarray(t.class_ids) for t in zoo.teachers])
        owned = pool.owners >= 0
        same = pool.owners.max(initial=-1) < len(ids)
        same = same and (
            (ids[pool.owners[owned]] == pool.classes[owned, None]).any(1).all()
        )
    if not same:
        raise InputError(
            f"{name}: its images and answers come from other "
            "teachers; give the same config.zoo, or recover anew without it"
        )


def fingerprint(zoo: zoo_lib.Zoo) -> str:
    """Twelve hex digits that name the teachers: networks, weights and classes."""
    digest = hashlib.sha256()
    for group in zoo.groups:
        named = group.architecture.as_dict()
        # As it was when the first fingerprints were taken, which must stay the same.
        named = {"way" if k == "num_classes" else k: v for k, v in named.items()}
        # The type that a teacher computes in changes its answers by rounding only.
        named.pop("dtype", None)
        # The hub of remote teachers is known by their names.
        described = json.dumps(named, default=lambda x: x.names)
        digest.update(described.encode())
        for leaf in jax.tree.leaves(group.teachers):
            digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:12]
