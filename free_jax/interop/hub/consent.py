"""Whose code may run: models that the user named, as the files were when named.

Consent is given path by path; no value stands for all.  What runs are the very bytes
whose SHA-256 is recorded in the model's card.
"""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from free_jax.errors import InputError

_ALL = ("*", "all", "true", "yes", "1", "**", "any")


class Consent(NamedTuple):
    """Paths of models whose code may run, and the SHA-256 they are bound to ("")."""

    given: tuple[tuple[str, str], ...] = ()


def read_consent(values: Sequence[str] | str, known: Sequence[str]) -> Consent:
    """Checks what the user named.

    Args:
      values: "PATH" or "PATH@SHA256".
      known: paths of the models that are there, and of their files.

    Raises:
      InputError: a value that stands for all, or a path of no model.
    """
    values = values.split(",") if isinstance(values, str) else values
    given = []
    for value in values:
        path, _, digest = str(value).strip().partition("@")
        if not path:
            continue
        path = str(pathlib.PurePosixPath(path))
        if path not in known:
            reason = (
                "stands for no model"
                if path.lower() in _ALL or "*" in path
                else ("is no model of this folder")
            )
            raise InputError(
                f"trust_code: {path[:120]!r} {reason}; name each model whose code may "
                "run by its path"
            )
        given.append((path, digest.lower().removeprefix("sha256:")))
    return Consent(tuple(given))


def allowed(consent: Consent, names: Sequence[str]) -> bool:
    """Whether a model, by any of its names, may run its code."""
    return any(path in names for path, _ in consent.given)


def trusted_bytes(
    consent: Consent, names: Sequence[str], file: pathlib.Path
) -> tuple[bytes, str]:
    """The content of a file whose code may run, and its SHA-256.

    Raises:
      InputError: there is no consent, or it is bound to another content.
    """
    if not allowed(consent, names):
        raise InputError(
            f"{file.name}: holds code, which is never run; if you trust it, name "
            f"{names[0]} in trust_code"
        )
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    bound = {bound for path, bound in consent.given if path in names and bound}
    if bound and digest not in bound:
        raise InputError(
            f"{file.name}: its SHA-256 is {digest[:16]}.., not the one that trust_code "
            "is bound to; look at the file again"
        )
    return content, digest


def digest_of(state: dict[str, Any]) -> str:
    """SHA-256 of weights: of names, shapes and values, in order of names."""
    total = hashlib.sha256()
    for key in sorted(state):
        array = state[key]
        total.update(f"{key} {array.dtype} {array.shape} ".encode())
        total.update(memoryview(array.reshape(-1).view("u1")) if array.size else b"")
    return total.hexdigest()
