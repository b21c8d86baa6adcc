"""How a folder of models is read."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

# How a program allows guesses; a command has its own way to say it.
GUESS_BY = "HubOptions(guess=True)"


class HubOptions(NamedTuple):
    """Settings of `read_folder`.

    Attributes:
      table: a file that says what files do not; None: ``teachers.yaml`` (or ``.json``)
        of the folder, where there is one.
      guess: whether what neither files nor table say is guessed.
      trust_code: models, by their paths, whose code may run, as "PATH" or
        "PATH@SHA256"; see `consent`.
      check: whether to compare with the original framework and ``reference.npz``.
      cache_dir: where programs are kept between runs; None: in the user's cache, "":
        nowhere.
      limit: reads only the first models.
      defaults: settings, as a table's, of all models of which it says nothing.
      guess_by: how the user would set `guess`, for messages.
      progress: called as ``progress(done, total)``.
    """

    table: Any = None
    guess: bool = False
    trust_code: tuple[str, ...] = ()
    check: bool = False
    cache_dir: Any = None
    limit: int | None = None
    defaults: Mapping[str, Any] = MappingProxyType({})
    guess_by: str = GUESS_BY
    progress: Callable[[int, int], None] | None = None
