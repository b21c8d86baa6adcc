"""What a model calls its outputs: lists, tables and files of names of all styles."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from free_jax.errors import InputError
from free_jax.interop.hub.facts import Fact
from free_jax.interop.hub.names import legible
from free_jax.interop.tensors.opening import open_within

Names = tuple[str | None, ...]

_LARGEST, _MOST = 4 << 20, 25_000
# Beside a model, in this order; the first that is there is read.
_FILES = (
    "labels.txt",
    "classes.txt",
    "class_names.txt",
    "class_map.txt",
    "label_names.txt",
    "names.txt",
    "synset.txt",
    "synset_words.txt",
    "classes.json",
    "labels.json",
    "class_names.json",
    "id2label.json",
    "class_to_idx.json",
    "idx_to_class.json",
    "class_indices.json",
    "imagenet_class_index.json",
)
# Keys of checkpoints and of hyper-parameters that hold names.
KEYS = (
    "class_names",
    "classes",
    "class_to_idx",
    "idx_to_class",
    "label_names",
    "labels",
    "id2label",
    "names",
    "categories",
    "idx2label",
    "label2id",
    "label_map",
    "class_map",
)
_INDEX = re.compile(
    r"(label|labels|class|cls|category|output|target|id|idx|no|n|c)?[ _\-#]*\d+", re.I
)
# WordNet's ids name a class as well as a word does.
_WORDNET = re.compile(r"n\d{8}")


def says_nothing(name: Any) -> bool:
    """Whether a name is an index in disguise.

    >>> says_nothing("LABEL_3"), says_nothing("7"), says_nothing("n02084071")
    (True, True, False)
    """
    text = "" if name is None else str(name).strip()
    if not text or _WORDNET.fullmatch(text):
        return not text
    return _INDEX.fullmatch(text) is not None


def meaningful(names: list[Any]) -> Names | None:
    """Names in one line each, None for those that say nothing; None if none says."""
    kept = tuple(
        None if says_nothing(name) else legible(str(name).strip()) for name in names
    )
    return kept if any(name is not None for name in kept) else None


def names_in(value: Any, source: str) -> list[Any] | None:
    """Names in order of the outputs, from any of the usual forms.

    Args:
      value: a list; {index: name}, with indices as text or numbers, or {index:
        [id, name]}; {name: index}.
      source: named in errors.

    Returns:
      The names, or None where `value` is no such thing.

    Raises:
      InputError: indices that are not 0, 1, ..
    """
    if isinstance(value, list | tuple):
        plain = all(isinstance(v, str | int | float) or v is None for v in value)
        return list(value) if value and plain else None
    if not isinstance(value, Mapping) or not value:
        return None
    keys, values = list(value), list(value.values())
    if all(_is_index(key) for key in keys):
        # {"0": ["n01440764", "tench"]}: the last one is the name.
        named = [v[-1] if isinstance(v, list | tuple) and v else v for v in values]
        pairs = zip(map(int, keys), named, strict=True)
    elif all(_is_index(v) for v in values):
        pairs = zip(map(int, values), keys, strict=True)
    else:
        return None
    ordered = sorted(pairs, key=lambda pair: pair[0])
    if [index for index, _ in ordered] != list(range(len(ordered))):
        raise InputError(
            f"{source}: its indices are not 0 to {len(ordered) - 1}, one a class; "
            "correct it or write class_names into teachers.yaml"
        )
    return [name for _, name in ordered]


def _is_index(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, int) or (
        isinstance(value, str) and value.isascii() and value.strip().isdigit()
    )


def names_in_text(text: str) -> list[str]:
    """Names from lines: plain, numbered before or after, or after a WordNet id.

    >>> names_in_text("0: cat" + chr(10) + "1: dog")
    ['cat', 'dog']
    >>> names_in_text("n02123045 tabby, tabby cat" + chr(10) + "n02084071 dog")
    ['tabby, tabby cat', 'dog']
    """
    lines = [line.strip() for line in text.lstrip("\ufeff").splitlines()]
    lines = [line for line in lines if line]
    for pattern, index, name in (
        (r"(\d+)\s*[:,;=\t ]\s*(.+)", 1, 2),
        (r"(.+?)\s*[:,;=\t ]\s*(\d+)", 2, 1),
    ):
        matches = [re.fullmatch(pattern, line) for line in lines]
        if lines and all(matches):
            found = {int(m[index]): m[name].strip() for m in matches if m}
            if sorted(found) == list(range(len(lines))):
                return [found[i] for i in range(len(lines))]
    if lines and all(re.match(r"n\d{8}\s+\S", line) for line in lines):
        return [line.split(None, 1)[1] for line in lines]
    return lines


def names_of_file(path: Any, inside: Any) -> Fact | None:
    """Names in a text or JSON file.

    Raises:
      InputError: it cannot be read, or holds too many lines.
    """
    path = pathlib.Path(path)
    found = open_within(path, inside, _LARGEST)
    try:
        text = found.read_bytes().decode("utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path.name}: is no text in UTF-8; save it so") from error
    if path.suffix == ".json":
        try:
            names = names_in(json.loads(text), path.name)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path.name}: is no valid JSON; correct it") from error
        if names is None:
            raise InputError(
                f'{path.name}: must be a list of names or {{"0": name, ..}}; correct '
                "or remove it"
            )
    else:
        names = names_in_text(text)
    if len(names) > _MOST:
        raise InputError(f"{path.name}: names {len(names)} classes; correct it")
    return Fact(names, path.name) if names else None


def names_beside(folder: pathlib.Path, stem: str, inside: Any) -> Fact | None:
    """Names in a file beside a model, by its name: ``labels.txt``, ``NAME.labels.txt``.

    Raises:
      InputError: as `names_of_file`.
    """
    own = (f"{stem}.txt", f"{stem}.labels.txt", f"{stem}_labels.txt", f"{stem}.names")
    present = {entry.name.lower(): entry.name for entry in folder.iterdir()}
    for name in (*own, *_FILES):
        if name.lower() in present:
            return names_of_file(folder / present[name.lower()], inside)
    return None


def names_in_extra(extra: Mapping[str, Any], name: str) -> Fact | None:
    """Names among what a checkpoint holds beside its weights, two levels deep."""
    tables = [("", extra)]
    tables += [(f"{k}.", v) for k, v in extra.items() if isinstance(v, Mapping)]
    for prefix, table in tables:
        for key in KEYS:
            if table.get(key) is not None:
                source = f"{name}:{prefix}{key}"
                names = names_in(table[key], source)
                if names and meaningful(names):
                    return Fact(names, source)
    return None


def choose(facts: list[Fact | None], outputs: int) -> tuple[Names | None, str, str]:
    """The first names that say something.

    Args:
      facts: in order of trust.
      outputs: of the network.

    Returns:
      The names, their source, and a remark where a later source says otherwise.

    Raises:
      InputError: their number is not that of the outputs.
    """
    chosen: Names | None = None
    source = remark = ""
    for fact in facts:
        if fact is None:
            continue
        names = meaningful(fact.value)
        if names is None:
            continue
        if len(names) != outputs:
            raise InputError(
                f"{fact.source} names {len(names)} classes, but the network has "
                f"{outputs} outputs; correct the names, here or in teachers.yaml"
            )
        if chosen is None:
            chosen, source = names, fact.source
        elif [str(n).casefold() for n in names] != [str(n).casefold() for n in chosen]:
            remark = f"{fact.source} names other classes than {source}, which is used"
    return chosen, source, remark
