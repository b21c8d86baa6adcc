"""Which config files there are, what each is, and where one that is named lies."""

import ast
import difflib
import pathlib

from free_jax.errors import InputError

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "experiments" / "configs"


def listed(folder: pathlib.Path = FOLDER) -> dict[str, str]:
    """Names of the files that define a config, each with its docstring's first line.

    Nothing is run: a file that cannot be read is listed without a line.

    >>> all(listed().values())
    True
    """
    found = {}
    for file in sorted(folder.glob("*.py")):
        text = file.read_text(encoding="utf-8", errors="replace")
        if "def get_config(" not in text:
            continue  # What several share, or a former name of another.
        try:
            told = ast.get_docstring(ast.parse(text)) or ""
        except SyntaxError:
            told = ""
        found[file.name] = told.partition("\n")[0]
    return found


def locate(file: str) -> pathlib.Path:
    """A config's file, by its path from here or from the repository.

    Raises:
      InputError: there is none; names those that are called alike.
    """
    for candidate in (pathlib.Path(file), REPOSITORY / file):
        if file and candidate.is_file():
            return candidate.resolve()
    raise InputError(f"--config={file}: no such file; {_near(file) or known()}")


def known() -> str:
    """The names of all, and how to learn what each is."""
    names = ", ".join(listed()) or "none"
    return f"configs in experiments/configs: {names} (--help says what each is)"


def _near(file: str) -> str:
    """Those whose names are like this one's; "" where none are."""
    stems = {pathlib.PurePath(name).stem: name for name in listed()}
    wanted = pathlib.PurePath(file).stem
    close = difflib.get_close_matches(wanted, stems, n=3, cutoff=0.6)
    # A part of a name is meant more often than another name of like letters.
    close = list(dict.fromkeys([*(s for s in stems if wanted and wanted in s), *close]))
    if not close:
        return ""
    folder = FOLDER.relative_to(REPOSITORY)
    return f"did you mean {' or '.join(f'{folder}/{stems[s]}' for s in close[:4])}?"
