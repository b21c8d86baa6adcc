"""A page of sections in HTML that needs no other file, and nothing from a network.

Blocks are strings of HTML; whatever is put into them is escaped, so that names and
messages may hold anything.  A section that cannot be made says why in one line.

>>> block = table([{"name": "<b>", "%": 61.23}], ("name", "%"))
>>> "&lt;b&gt;" in block and "61.2" in block
True
"""

import html
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from experiments.harness import metrics, page_style
from experiments.harness.progress import Progress

T = TypeVar("T")
PAGE_FILE = "report.html"


class Html(str):
    """Text that is HTML already: put into a block as it is."""


class Picture(NamedTuple):
    """A picture and what is said of it.

    Attributes:
      uri: a data URI.
      caption: under it.
      wrong: whether the caption is marked as an error.
      groups: what it can be sorted by, such as ``{"class": "fox"}``.
    """

    uri: str
    caption: str | Html = ""
    wrong: bool = False
    groups: Mapping[str, str] = {}


class Part(NamedTuple):
    """A section that is yet to be made.

    Attributes:
      title: heading.
      make: its blocks.
    """

    title: str
    make: Callable[[], Sequence[Html]]


class Section(NamedTuple):
    """A titled part of a page.

    Attributes:
      title: heading.
      blocks: HTML.
    """

    title: str
    blocks: Sequence[Html]


def escaped(value: Any) -> Html:
    """Any value as text; numbers have three significant digits."""
    if isinstance(value, Html):
        return value
    if isinstance(value, float):
        value = metrics.format_number(value)
    return Html(html.escape("" if value is None else str(value)))


# Where a name of many parts may go on in the next line: after a separator, and before
# a capital letter.
_LONG, _LONG_IN_TABLES = re.compile(r"\S{10,}"), re.compile(r"\S{33,}")
_PARTS = re.compile(r"(?<=[/\\_.,:;=|@])(?=[^/\\_.,:;=|@])|(?<=[a-z])(?=[A-Z])")


def flowing(value: Any, long: re.Pattern[str] = _LONG) -> Html:
    """Any value as text whose long names may be broken, between their parts.

    >>> flowing("mini_imagenet of here/conv4.npz")
    'mini_<wbr>imagenet of here/<wbr>conv4.<wbr>npz'
    """
    if isinstance(value, Html):
        return value
    text, found, end = html.unescape(escaped(value)), [], 0
    for word in long.finditer(text):
        found.append(html.escape(text[end : word.start()]))
        found.append("<wbr>".join(map(html.escape, _PARTS.split(word[0]))))
        end = word.end()
    return Html("".join([*found, html.escape(text[end:])]))


def signed(value: Any) -> Any:
    """Text as a terminal has it, with a proper sign before an interval."""
    return (
        value.replace("+-", "\N{PLUS-MINUS SIGN}") if isinstance(value, str) else value
    )


def lines(*values: Any) -> Html:
    """Values under one another."""
    return Html("<br>".join(map(flowing, values)))


def paragraph(text: Any) -> Html:
    """A paragraph."""
    return Html(f"<p>{flowing(text)}</p>")


def heading(text: Any) -> Html:
    """A heading within a section."""
    return Html(f"<h3>{flowing(text)}</h3>")


def items(texts: Iterable[Any]) -> Html:
    """A list."""
    return Html(f"<ul>{''.join(f'<li>{flowing(text)}</li>' for text in texts)}</ul>")


def code(text: str) -> Html:
    """Text as it is typed or read by a machine."""
    return Html(f"<pre>{flowing(text)}</pre>")


def link(target: str, text: Any) -> Html:
    """A link to a file beside the page."""
    return Html(f'<a href="{html.escape(target)}">{flowing(text)}</a>')


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Html:
    """A table; numbers stand to the right.

    Args:
      rows: by column; one that is missing is an empty cell.
      columns: in order.
    """
    right = [_is_numeric([row.get(column) for row in rows]) for column in columns]

    def line(cells: Iterable[Any], tag: str) -> str:
        sides = (' class="number"' if side else "" for side in right)
        pairs = zip(cells, sides, strict=True)
        text = "".join(
            f"<{tag}{side}>{flowing(x, _LONG_IN_TABLES)}</{tag}>" for x, side in pairs
        )
        return f"<tr>{text}</tr>"

    body = "".join(line((row.get(c) for c in columns), "td") for row in rows)
    head = f"<thead>{line(columns, 'th')}</thead>"
    return Html(f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>')


def _is_numeric(cells: Sequence[Any]) -> bool:
    shown = [str(cell) for cell in cells if cell not in (None, "", "-")]
    return bool(shown) and all(re.match(r"[-+]?\d", cell) for cell in shown)


def tiles(values: Sequence[tuple[Any, Any]]) -> Html:
    """The few numbers that matter most, each over what it is."""
    shown = "".join(
        f"<div><b>{flowing(value)}</b><span>{flowing(what)}</span></div>"
        for value, what in values
    )
    return Html(f'<div class="tiles">{shown}</div>')


def figure(uri: str, caption: Any = "") -> Html:
    """A drawing as wide as the page, such as a plot; larger on a click."""
    text = f"<figcaption>{flowing(caption)}</figcaption>" if caption else ""
    return Html(f'<figure class="plot">{_image(uri, caption)}{text}</figure>')


def figures(drawn: Iterable[Html]) -> Html:
    """Drawings beside one another where there is room."""
    return Html(f'<div class="plots">{"".join(drawn)}</div>')


def gallery(pictures: Sequence[Picture], by: Sequence[str] = ()) -> Html:
    """Small pictures, each larger on a click.

    Args:
      pictures: in order.
      by: names of groups that the page can sort them by, the first one at once.
    """
    shown = "".join(_small(picture, by) for picture in pictures)
    if not by:
        return Html(f'<div class="gallery">{shown}</div>')
    names = html.escape("|".join(by))
    inner = f'<div class="gallery">{shown}</div>'
    return Html(f'<div class="sorted" data-by="{names}">{inner}</div>')


def _small(picture: Picture, by: Sequence[str]) -> str:
    kind = ' class="wrong"' if picture.wrong else ""
    known = [f'data-g{n}="{escaped(picture.groups[g])}"' for n, g in enumerate(by)]
    caption = flowing(picture.caption)
    caption = f"<figcaption>{caption}</figcaption>" if caption else ""
    image = _image(picture.uri, picture.caption or ", ".join(picture.groups.values()))
    return f"<figure{kind} {' '.join(known)}>{image}{caption}</figure>"


def _image(uri: str, caption: Any) -> str:
    text = escaped(caption).replace("<wbr>", "")
    text = re.sub(r"<[^>]*>", " ", text)
    return f'<img src="{html.escape(uri)}" alt="{text}" tabindex="0" role="button">'


def details(summary: Any, *blocks: Html) -> Html:
    """Blocks that are shown on a click."""
    inner = "".join(blocks)
    return Html(f"<details><summary>{flowing(summary)}</summary>{inner}</details>")


def made(parts: Sequence[Part]) -> list[Section]:
    """The sections, each with why it could not be made where it could not.

    Says which one is being made: what draws many points takes seconds.
    """
    sections = []
    with Progress(len(parts), label="report", at_once=False) as progress:
        for done, (title, make) in enumerate(parts):
            progress.update(done, {"making": title})
            found, told = attempted(title, make)
            blocks = [paragraph(f"Not made: {told}")] if found is None else found
            sections.append(Section(title, blocks))
        progress.update(len(parts))
    return sections


def attempted(what: str, make: Callable[[], T]) -> tuple[T | None, str]:
    """What is made for a page, or None and why not: no page is worth losing a run.

    Args:
      what: for the line that says so.
      make: makes it.
    """
    try:
        return make(), ""
    except Exception as error:  # Whatever it is.
        told = " ".join(str(error).split()) or type(error).__name__
        print(f"note: {what} of the page: {told}", file=sys.stderr, flush=True)
        return None, told


def page(title: str, about: Sequence[Any], sections: Sequence[Section]) -> str:
    """The whole page.

    Args:
      title: of the page.
      about: lines under it.
      sections: in order; those without blocks are left out.
    """
    shown = [section for section in sections if section.blocks]
    places = [f"section-{number}" for number in range(len(shown))]
    named = zip(places, shown, strict=True)
    contents = "".join(
        f'<a href="#{place}">{escaped(section.title)}</a>' for place, section in named
    )
    parts = [
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        # Else a browser asks the folder's server for one.
        '<link rel="icon" href="data:,">',
        f"<title>{escaped(title)}</title><style>{page_style.STYLE}</style></head>",
        f"<body><header><h1>{flowing(title)}</h1>",
        *map(paragraph, about),
        f"<nav>{contents}</nav></header><main>"
        if len(shown) > 1
        else "</header><main>",
    ]
    for place, section in zip(places, shown, strict=True):
        parts.append(f'<section id="{place}"><h2>{flowing(section.title)}</h2>')
        parts += [*section.blocks, "</section>"]
    script = f"<script>{page_style.SCRIPT}</script>"
    return "\n".join([*parts, f"</main>{script}</body></html>\n"])
