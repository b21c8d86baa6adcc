"""The table of what files do not say: ``teachers.yaml`` beside the models.

    defaults: {size: 32, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}
    resnet/model.pth: {family: resnet18, class_names: [cat, dog]}
    tinynet: {code: "model.py:TinyNet", channels: BGR, range: 255}
    classes: {oak: [oak_tree, "tinynet#3"]}

A key is the path of a model, or of a folder above it.  `mean` and `std` are those of
pixels as the network takes them: in units of `range` and in the order of `channels`.
"""

import difflib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from free_jax.errors import InputError
from free_jax.interop.hub import facts as reading
from free_jax.interop.hub.facts import Fact, Facts
from free_jax.interop.tensors.opening import open_within

_LARGEST = 4 << 20
NAMES = ("teachers.yaml", "teachers.yml", "teachers.json")
_PREPROCESSING = (
    *("size", "resize_to", "crop", "resample"),
    *("mean", "std", "channels", "range"),
)
KEYS = ("family", "code", "class_names", *_PREPROCESSING, "weights")
_CHOICES = {
    "channels": ("RGB", "BGR", "L"),
    "range": (1, 255),
    "weights": ("ema", "model"),
}


class Table(NamedTuple):
    """A table, checked.

    Attributes:
      name: of its file; "" where there is none.
      models: path to settings.
      defaults: of all models.
      classes: class to the names that mean it.
    """

    name: str = ""
    models: Mapping[str, Mapping[str, Any]] = {}
    defaults: Mapping[str, Any] = {}
    classes: Mapping[str, Sequence[str]] = {}


class Row(NamedTuple):
    """What the table says of one model.

    Attributes:
      values: setting to value; more specific paths come before folders and defaults.
      source: the name of the table.
    """

    values: Mapping[str, Any]
    source: str


def read_table(path: Any, inside: Any = None) -> Table:
    """Reads a table.

    Args:
      path: a YAML or JSON file.
      inside: a folder that it must not lead out of; None: it may be anywhere.

    Raises:
      InputError: it cannot be read, or has unknown keys.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"{path}: no such table; correct zoo.table")
    found = open_within(path, path.parent if inside is None else inside, _LARGEST)
    content = _parse(found, path.name)
    if content is None:
        return Table(path.name)
    if not isinstance(content, Mapping):
        raise InputError(f"{path.name}: must map paths of models to their settings")
    models, defaults, classes = {}, {}, {}
    for key, value in content.items():
        if key == "classes":
            classes = _classes(value, path.name)
        elif key == "defaults":
            defaults = _settings(value, f"{path.name}: defaults")
        else:
            models[_plain(str(key))] = _settings(value, f"{path.name}: {str(key)[:80]}")
    return Table(path.name, models, defaults, classes)


def with_defaults(table: Table, defaults: Mapping[str, Any]) -> Table:
    """A table with settings for all models of which it says nothing.

    Raises:
      InputError: a setting is unknown or out of range.
    """
    if not defaults:
        return table
    beneath = _settings(defaults, "defaults")
    return table._replace(
        name=table.name or "defaults", defaults={**beneath, **table.defaults}
    )


def _parse(path: pathlib.Path, name: str) -> Any:
    import yaml

    try:
        text = path.read_bytes().decode("utf-8-sig")
        # Every JSON file is a YAML file.
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{name}: is no valid YAML ({reason}); correct it") from error


def _plain(path: str) -> str:
    """A path as cards have it."""
    return str(pathlib.PurePosixPath(path.replace("\\", "/")))


def _settings(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"{where}: must be a table of settings, {{size: 32, ..}}")
    for key in value:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else f"choose among {KEYS}"
            raise InputError(f"{where}: unknown setting {str(key)[:60]!r}; {hint}")
    checked = {}
    for key, setting in value.items():
        if setting is not None:
            checked[key] = _check(key, setting, f"{where}: {key}")
    return checked


def _check(key: str, value: Any, where: str) -> Any:
    """A setting in its final form."""
    if key in _CHOICES:
        wanted = (
            value.upper() if key == "channels" and isinstance(value, str) else value
        )
        if isinstance(wanted, bool) or wanted not in _CHOICES[key]:
            raise InputError(f"{where}: {value!r:.40}; choose among {_CHOICES[key]}")
        return wanted
    if key in ("mean", "std"):
        return reading.numbers(value, where)
    if key == "size":
        return reading.size(value, where)
    if key == "resample":
        return reading.resample(value, where)
    if key == "resize_to":
        # A number is the shortest edge, two are height and width.
        if value is False or str(value).lower() == "none":
            return False
        listed = isinstance(value, list | tuple | Mapping)
        return reading.size(value, where) if listed else reading.side(value, where)
    if key == "crop":
        return value if isinstance(value, bool) else reading.size(value, where)
    if key == "class_names":
        if not isinstance(value, list | Mapping | str) or not value:
            raise InputError(f"{where}: must be a list of names, or a file of them")
        return value
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {value!r:.60} must be text")
    return value.strip()


def _classes(value: Any, name: str) -> dict[str, list[str]]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"{name}: classes must be {{class: [names that mean it]}}")
    found = {}
    for meaning, names in value.items():
        names = [names] if isinstance(names, str) else names
        if not isinstance(names, list) or not names:
            raise InputError(f"{name}: classes: {meaning!r:.60} needs a list of names")
        found[str(meaning)] = [str(item) for item in names]
    return found


def row_of(table: Table, paths: Sequence[str]) -> Row:
    """What a table says of a model.

    Args:
      table: any.
      paths: names of the model: its own path and those of its files.
    """
    values: dict[str, Any] = dict(table.defaults)
    above = [str(p) for p in reversed(pathlib.PurePosixPath(paths[0]).parents)]
    for key in [*above, *reversed(paths)]:
        values.update(table.models.get(key, {}))
    return Row(values, table.name)


def check_paths(table: Table, known: Sequence[str]) -> None:
    """InputError where the table speaks of a model that is not there."""
    folders = {str(p) for path in known for p in pathlib.PurePosixPath(path).parents}
    for path in table.models:
        if path not in known and path not in folders:
            near = difflib.get_close_matches(path, [*known, *folders], 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else "correct or remove the entry"
            raise InputError(f"{table.name}: there is no model {path[:120]!r}; {hint}")


def row_facts(row: Row, said: Facts) -> dict[str, Fact]:
    """Facts of the table over those of files.

    A size that differs from the files' makes their resize and crop void, and a crop
    alone is the size.

    Raises:
      InputError: `size` and `crop` differ.
    """
    values, source = dict(row.values), row.source
    facts = dict(said)
    crop = values.get("crop")
    if isinstance(crop, tuple):
        if values.setdefault("size", crop) != crop:
            raise InputError(f"{source}: crop {crop} is not size {values['size']}")
        values["crop"] = True
    if "size" in values and "size" in facts and facts["size"].value != values["size"]:
        for name in ("resize_to", "crop"):
            facts.pop(name, None)
    if values.get("range") == 255 and not {"mean", "std"} & {*values, *facts}:
        values["mean"], values["std"] = (0.0,), (1.0,)
    for name in ("mean", "std"):
        # One of a pair from the table, the other nowhere: nothing else is done.
        other = {"mean": "std", "std": "mean"}[name]
        if name in values and other not in {*values, *facts}:
            values[other] = (0.0,) if other == "mean" else (1.0,)
    for name in set(_PREPROCESSING) & set(values):
        value = values[name]
        if name == "resize_to" and value is False:
            value = None
        facts[name] = Fact(value, source)
    resized = facts["resize_to"].value if "resize_to" in values else None
    if resized is not None and "crop" not in facts:
        size = facts["size"].value if "size" in facts else None
        exact = resized if isinstance(resized, tuple) else None
        facts["crop"] = Fact(exact != size, source)
    return facts
