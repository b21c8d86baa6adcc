"""Text of strangers, made fit to be shown: no control characters, no mark-up."""

import unicodedata
from typing import Any

_LONGEST = 200
# Letters that steer a terminal or hide in text: control, format, surrogate, unassigned.
_STEERING = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def legible(text: Any, longest: int = _LONGEST) -> str:
    r"""Text in one line, with steering characters written out and an end.

    >>> legible("cat" + chr(27) + "[31m" + chr(10) + "dog")
    'cat\\x1b[31m\\ndog'
    """
    shown = "".join(map(_letter, str(text)[: longest + 1]))
    return shown if len(shown) <= longest else shown[: longest - 1] + "\u2026"


def _letter(letter: str) -> str:
    if unicodedata.category(letter) in _STEERING:
        return letter.encode("unicode_escape", "backslashreplace").decode("ascii")
    return letter


def for_cell(text: Any) -> str:
    """`legible` text for a cell of a spreadsheet or a page: no formula, no tag.

    >>> for_cell("=HYPERLINK(1)"), for_cell("<b>dog")
    ("'=HYPERLINK(1)", '&lt;b&gt;dog')
    """
    shown = legible(text)
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return no_formula(shown)


def no_formula(text: str) -> str:
    """Text that a spreadsheet shows and does not compute: the one place for all.

    >>> no_formula("=1+1"), no_formula("dog")
    ("'=1+1", 'dog')
    """
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") else text
