"""What `make docs` fills in: the tables of configuration keys.

``configuration.md`` has a line ``<!-- keys: NAME -->`` for each table; NAME is "common"
(keys of every method), a method of `experiments.methods.ALGORITHMS`, or a run that is
no method's.
"""

import re
from collections.abc import Iterable
from typing import Any

MARK = re.compile(r"<!-- keys: (\w+) -->")
INTERVAL = re.compile(r"(?<=\d) \+- (?=\d)")


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Called by mkdocs for each page."""
    del kwargs
    filled = MARK.sub(lambda found: table(found[1]), markdown)
    return "\n".join(map(_in_one_line, filled.split("\n")))


def _in_one_line(line: str) -> str:
    """A table's figures are not folded before their interval."""
    return INTERVAL.sub("&nbsp;±&nbsp;", line) if line.startswith("|") else line


def records() -> dict[str, type]:
    """The record of each table, by name."""
    # Here: mkdocs loads this file for every page, also where nothing is filled in.
    from experiments.methods import ALGORITHMS, checks, options

    methods = {name: module.Config for name, module in ALGORITHMS.items()}
    return {"common": options.Common} | methods | dict(checks.OTHERS)


def table(name: str) -> str:
    """The keys of a record as a table; a method's without those of every method."""
    from experiments.harness import sections

    found = records()
    rows = sections.document(found[name])
    if name != "common":
        shared = set(sections.document(found["common"]))
        rows = [row for row in rows if row not in shared]
    return "\n".join(_lines(rows))


def _lines(rows: Iterable[Any]) -> Iterable[str]:
    yield "| key | default | allowed | what it does |"
    yield "|---|---|---|---|"
    for row in rows:
        allowed, text = row.allowed or row.kind, " ".join(row.text.split())
        text = text or "Names what this table is of."
        words = [cell.replace("<", "&lt;") for cell in (allowed, text)]
        cells = [f"`{row.key}`", f"`{row.default}`", *words]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
