"""How docstrings look on the site: doctests and ``Example::`` blocks become code."""

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"(?m)^(?P<indent> *)>>> .*(?:\n(?!\s*$).*)*")


class AsCode(griffe.Extension):
    """Fences what Markdown would take for quotations."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe for every module, class, function and attribute."""
        del kwargs
        if obj.docstring:
            obj.docstring.value = as_code(obj.docstring.value)


def as_code(text: str) -> str:
    r"""A docstring with doctests in fences.

    >>> print(as_code("Adds.\n\n>>> 1 + 1\n2"))
    Adds.
    <BLANKLINE>
    ```python
    >>> 1 + 1
    2
    ```
    """
    text = re.sub(r"(?m)^( *)Example::$", r"\1**Example**", text)
    text = re.sub(r"(?m)::$", ":", text)

    def fenced(found: re.Match[str]) -> str:
        space = found["indent"]
        return f"{space}```python\n{found[0]}\n{space}```"

    return DOCTEST.sub(fenced, text)
