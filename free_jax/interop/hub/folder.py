"""A folder of models -> cards -> a zoo."""

import hashlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from free_jax import nouns
from free_jax.errors import InputError
from free_jax.interop.hub import checkpoint, graphs, labels
from free_jax.interop.hub.card import Card
from free_jax.interop.hub.consent import read_consent
from free_jax.interop.hub.facts import GUESSED, Fact, settle
from free_jax.interop.hub.huggingface import read_huggingface
from free_jax.interop.hub.licence import licence_of
from free_jax.interop.hub.measure import measured
from free_jax.interop.hub.options import HubOptions
from free_jax.interop.hub.reading import Reading, Setting
from free_jax.interop.hub.reasons import left_out
from free_jax.interop.hub.table import (
    NAMES,
    Table,
    check_paths,
    read_table,
    row_facts,
    row_of,
    with_defaults,
)
from free_jax.interop.hub.timm_folder import read_timm
from free_jax.interop.hub.walk import walk
from free_jax.zoo import Zoo
from free_jax.zoo.assembly import Assembled, Teacher, assemble
from free_jax.zoo.network import make_network

_READERS: dict[str, Callable[[Setting], Reading]] = {
    "huggingface": read_huggingface,
    "timm": read_timm,
    "weights": checkpoint.read_weights,
    "onnx": graphs.read_onnx_file,
    "torch_export": graphs.read_torch_export,
}


# In an error; `report.as_text` has all.
_REASONS = 3


class Survey(NamedTuple):
    """All that was found in a folder.

    Attributes:
      cards: one a model, in natural order of paths.
      notes: what was passed over, a line each.
      table: what was read beside the models.
      root: the folder.
    """

    cards: tuple[Card, ...]
    notes: tuple[str, ...]
    table: Table
    root: pathlib.Path


def read_folder(path: Any, options: HubOptions = HubOptions()) -> list[Card]:
    """Reads every model of a folder; one that cannot be used says why.

    Args:
      path: a folder of models, or one model.
      options: see `HubOptions`.

    Raises:
      InputError: there is no such folder, no model in it, or the table is wrong.
    """
    return list(survey(path, options).cards)


def survey(path: Any, options: HubOptions = HubOptions()) -> Survey:
    """`read_folder`, with what was passed over."""
    path = pathlib.Path(path).expanduser()
    if (path / "zoo.json").is_file():
        raise InputError(
            f"{path}: is a converted zoo already; load_zoo reads it, and runs do by "
            "config.zoo.path"
        )
    found = walk(path)
    root = path.parent if path.is_file() else path
    if not found.candidates:
        noted = f" ({'; '.join(found.notes[:3])})" if found.notes else ""
        told = "is no model" if path.is_file() else f"holds no models{noted}"
        raise InputError(
            f"{path}: {told}; expected folders of Hugging Face or "
            "timm, or files .safetensors, .pth, .pt, .bin, .ckpt, .onnx, .pt2"
        )
    known = [n for c in found.candidates for n in (c.path, *c.files)]
    table = with_defaults(_table(root, options), options.defaults)
    check_paths(table, known)
    consent = read_consent(options.trust_code, known)
    candidates = found.candidates[: options.limit]
    first: dict[str, Card] = {}
    cards: list[Card] = []
    for done, candidate in enumerate(candidates):
        names = (candidate.path, *candidate.files)
        setting = Setting(candidate, root, row_of(table, names), consent, options)
        card = _without_twin(read_one(setting), first, cards)
        if card is not None:
            cards.append(card)
        if options.progress is not None:
            options.progress(done + 1, len(candidates))
    return Survey(tuple(cards), found.notes, table, root)


def _table(root: pathlib.Path, options: HubOptions) -> Table:
    if options.table is not None:
        return read_table(options.table)
    there = [root / name for name in NAMES if (root / name).is_file()]
    if len(there) > 1:
        raise InputError(
            f"{root}: has {there[0].name} and {there[1].name}; keep one of the two"
        )
    return read_table(there[0], root) if there else Table()


def _without_twin(card: Card, first: dict[str, Card], cards: list[Card]) -> Card | None:
    """The card, unless a former one has the same weights: they are one model."""
    if not card.used or not card.digest:
        return card
    twin = first.setdefault(card.digest, card)
    if twin is card:
        return card
    folder = pathlib.PurePosixPath(card.files[0]).parent
    if folder == pathlib.PurePosixPath(twin.files[0]).parent:
        position = cards.index(twin)
        joined = twin._replace(files=(*twin.files, *card.files))
        cards[position] = first[card.digest] = joined
        return None
    return card._replace(
        network=None,
        variables=None,
        framework=None,
        message=f"holds the same weights as {twin.path}, which is used",
    )


def read_one(setting: Setting) -> Card:
    """One model's card; whatever is wrong with it becomes its message."""
    candidate = setting.candidate
    blank = Card(candidate.path, _kind(setting), files=candidate.files)
    if candidate.layout == "refused":
        return blank._replace(message=candidate.message)
    reading = None
    try:
        reading = _READERS[candidate.layout](setting)
        stated = licence_of(candidate.folder, candidate.config, setting.root)
        sources = dict(reading.sources)
        if stated is not None:
            sources["licence"] = stated.source
        blank = blank._replace(
            licence="" if stated is None else stated.value,
            kind=reading.kind,
            recognised=reading.recognised,
            digest=reading.digest,
            accuracy=reading.accuracy,
            class_ids=reading.class_ids,
            consent=reading.consent,
            sources=sources,
        )
        card = _card(setting, reading, blank)
        return measured(card, setting) if setting.options.check else card
    except InputError as error:
        return blank._replace(message=_line(error))
    except Exception as error:  # A stranger's file must not end the reading of others.
        reason = " ".join(str(error).split())[:160]
        return blank._replace(
            message=f"cannot be read ({type(error).__name__}: {reason}); it is "
            "damaged, or of a kind that is not foreseen - leave it out"
        )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _kind(setting: Setting) -> str:
    """The kind as far as the files' names and first bytes tell."""
    candidate = setting.candidate
    layout = candidate.layout
    if layout in ("huggingface", "timm", "onnx", "torch_export"):
        return layout
    name = candidate.file.name.lower()
    if layout == "refused" or name.endswith(".json"):
        return (
            "module"
            if name.endswith((".pkl", ".pickle", ".joblib"))
            else ("huggingface" if candidate.config is not None else "checkpoint")
        )
    return checkpoint.kind_of_file(setting)


def _card(setting: Setting, reading: Reading, blank: Card) -> Card:
    """The card of a model that was read."""
    options, row = setting.options, setting.row
    facts = row_facts(row, reading.facts)
    if reading.sources.get("heads") == GUESSED and not options.guess:
        raise InputError(
            f"the weights do not tell its heads ({reading.recognised}); write its "
            f"family into teachers.yaml, or allow guesses by {options.guess_by}"
        )
    preprocessing, sources = settle(
        facts,
        reading.channels,
        guess=options.guess,
        guess_by=options.guess_by,
        guessed_size=reading.guessed_size,
    )
    h, w, c = preprocessing.image_shape
    converted = reading.convert((c, h, w))
    names, said, remark = _names(setting, reading, converted.num_classes)
    sources = {**blank.sources, **sources}
    if names is not None:
        sources["class_names"] = said
    try:
        network = make_network(
            converted.name,
            num_classes=converted.num_classes,
            image_shape=(h, w, c),
            mean=preprocessing.mean,
            std=preprocessing.std,
            bgr=preprocessing.channels == "BGR",
            gives=converted.gives,
            **converted.fields,
        )
    except ValueError as error:
        raise InputError(f"{setting.name}: {error}") from error
    _check_finite(converted.variables, setting.name)
    remarks = [text for text in (converted.remark, remark) if text]
    return blank._replace(
        network=network,
        variables=converted.variables,
        class_names=names,
        preprocessing=preprocessing,
        sources=sources,
        framework=converted.framework,
        message="; ".join(remarks),
    )


def _check_finite(variables: Any, name: str) -> None:
    import jax
    import numpy as np

    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        if not np.isfinite(np.asarray(leaf)).all():
            where = jax.tree_util.keystr(path)
            raise InputError(
                f"{name}: its weights are not finite ({where}); train it again or "
                "leave it out"
            )


def _names(
    setting: Setting, reading: Reading, outputs: int
) -> tuple[labels.Names | None, str, str]:
    """Names of the outputs: of the table, then of the files."""
    stated = setting.row.values.get("class_names")
    source = setting.row.source
    facts: list[Fact | None] = list(reading.labels)
    if stated is not None:
        if isinstance(stated, str):
            fact = labels.names_of_file(setting.root / stated, setting.root)
            values = fact.value if fact else []
        else:
            values = labels.names_in(stated, f"{source}: class_names")
        if not values:
            raise InputError(f"{source}: class_names must be a list of names")
        facts = [Fact(values, source)]
    ids = reading.class_ids
    if ids is not None:
        facts = [_by_ids(fact, ids, outputs) for fact in facts]
    return labels.choose(facts, outputs)


def _by_ids(fact: Fact | None, ids: tuple[int, ...], outputs: int) -> Fact | None:
    """Names of all classes, which ids of the released layouts index."""
    if fact is None:
        return None
    names = fact.value
    if len(names) > max(ids):
        return Fact([names[i] for i in ids], fact.source)
    if len(names) != outputs:
        raise InputError(
            f"{fact.source} names {len(names)} classes, but class ids go up to "
            f"{max(ids)}; give the names of all classes"
        )
    return fact


def output_names(card: Card, root: pathlib.Path) -> tuple[str | None, ...]:
    """What a zoo calls a card's outputs.

    Names; ids that files of one folder share as ``FOLDER#17``; None for outputs that
    nothing names, each of which becomes a class of its own.
    """
    assert card.network is not None
    if card.class_names is not None:
        return card.class_names
    if card.class_ids is None:
        return (None,) * card.network.num_classes
    folder = str(pathlib.PurePosixPath(card.files[0]).parent)
    folder = root.resolve().name if folder == "." else folder
    return tuple(f"{folder}#{number}" for number in card.class_ids)


def zoo_of(found: Survey) -> Assembled:
    """The zoo of a survey's teachers, and the table of its classes.

    Raises:
      InputError: no model can be used; says the first reasons.
    """
    used = [card for card in found.cards if card.used]
    if not used:
        reasons = left_out(found.cards)
        rest = len(reasons) - _REASONS
        raise InputError(
            f"{found.root}: none of {nouns.count(len(found.cards), 'model')} can be "
            "used: "
            + "; ".join(reasons[:_REASONS])
            + (f"; and {rest} more reasons" if rest > 0 else "")
        )
    teachers = [
        Teacher(
            card.path,
            card.network,
            card.variables,
            output_names(card, found.root),
            card.accuracy,
            licence=card.licence,
            guessed=", ".join(card.guessed),
        )
        for card in used
        if card.network is not None
    ]
    return assemble(teachers, found.table.classes)


def read_zoo(path: Any, options: HubOptions = HubOptions()) -> Zoo:
    """The zoo of a folder of models.

    Raises:
      InputError: as `survey` and `zoo_of`.
    """
    return zoo_of(survey(path, options)).zoo


def fingerprint(path: Any, options: HubOptions) -> str:
    """SHA-256 of what a reading depends on: files' names, sizes and times, options."""
    path = pathlib.Path(path).expanduser()
    found = walk(path)
    root = path.parent if path.is_file() else path
    files = {root / name for c in found.candidates for name in c.files}
    files |= {
        p
        for c in found.candidates
        for p in c.folder.iterdir()
        if p.suffix in (".json", ".txt", ".yaml", ".yml", ".py", ".tsv") and p.is_file()
    }
    files |= {root / name for name in NAMES}
    if options.table is not None:
        files.add(pathlib.Path(options.table).expanduser())
    total = hashlib.sha256()
    for file in sorted(files):
        if file.is_file():
            stat = file.stat()
            total.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    chosen = [options.guess, options.trust_code, options.limit]
    if options.defaults:
        chosen.append(sorted(options.defaults.items()))
    total.update(repr(tuple(chosen)).encode())
    return total.hexdigest()
