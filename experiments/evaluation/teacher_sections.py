"""What the page of a run says of teachers, and of the images recovered from them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from experiments.evaluation import likeness
from experiments.evaluation.samples import Samples
from experiments.harness import page, pictures, plots
from experiments.harness.page import Html
from free_jax import nouns

_LONGEST = 36  # Letters of a name.
_FEW = 6  # Classes that are named of a teacher.


def short(name: str, most: int = _LONGEST) -> str:
    """A name without its middle.

    >>> short("models/a/very/long/path/to/weights.pth", 20)
    'models/a/..ights.pth'
    """
    if len(name) <= most:
        return name
    half = (most - 2) // 2
    return f"{name[: most - 2 - half]}..{name[-half:]}"


def recovered(sample: Samples | None, sheet: epath.Path) -> Sequence[Html]:
    """Images by class and teacher.

    Args:
      sample: of them.
      sheet: a picture of some, for a run of an earlier version that kept no sample.
    """
    if sample is None or not len(sample.images):
        told = "Some of the images; rows are classes, the last may be dead leaves."
        found = sheet.exists()
        return [page.figure(pictures.file_uri(sheet), told)] if found else []
    shown, by = [], ["class", "teacher"] if any(sample.owners) else ["class"]
    each = zip(sample.images, sample.classes, sample.owners, strict=True)
    for image, known, owner in each:
        groups = {
            "class": known or "dead leaves: of no class",
            "teacher": owner or ("not noted" if known else "dead leaves: of none"),
        }
        told = [known or "dead leaves", *([short(owner)] if owner else [])]
        # Of classes alone, the heading says it.
        told = page.lines(*told) if len(by) > 1 else ""
        uri = pictures.array_uri(image)
        shown.append(page.Picture(uri, told, groups=groups))
    return [page.paragraph(counted(sample)), page.gallery(shown, by)]


def counted(sample: Samples) -> str:
    """How many of the images were recovered from teachers, and how many drawn."""
    side = "x".join(map(str, sample.images.shape[1:3]))
    turns = "classes and teachers" if any(sample.owners) else "classes"
    made = sum(map(bool, sample.classes))
    drawn = len(sample.classes) - made
    told = []
    if made:
        what = nouns.count(made, "recovered image")
        told.append(f"{what} of {side} pixels, of {turns} in turn")
    if drawn:
        what = nouns.count(drawn, "dead leaf", "dead leaves")
        told.append(f"{what} (drawn at random, recovered from no teacher)")
    shown = ", and ".join(told)
    return f"{shown}. No teacher's data was seen. A click shows one larger."


def trusted(
    teachers: Sequence[dict[str, Any]], trust: dict[str, Any], result: dict[str, Any]
) -> Sequence[Html]:
    """A row for each teacher: what is known of it, how far it was believed, and why.

    Args:
      teachers: entries of `release.made_from`; none of a run of an earlier version.
      trust: contents of ``teachers.json``; empty where nobody judged.
      result: contents of ``result.json``.
    """
    count = len(teachers) or len(trust.get("weights", ()))
    if not count:
        return []
    drawn = result.get("drawn", {}).get("per_teacher", ())
    queries = result.get("queries", {}).get("per_teacher", ())
    numbers = trust.get("teachers") or range(count)
    rows = []
    for row in range(count):
        known = teachers[row] if teachers else {"source": f"teacher {numbers[row]}"}
        told = {
            "teacher": short(known["source"]),
            "network": known.get("network"),
            "classes": _classes(known),
            "own accuracy %": _percent(known.get("accuracy")),
            "trust": _at(trust.get("weights"), row, known.get("trust")),
            "information (nats)": _at(trust.get("information"), row),
            "agrees %": _percent(_at(trust.get("agreement"), row)),
            "recognised %": _percent(_at(trust.get("recognised"), row)),
            "drawn": _at(drawn, row),
            "queries": _at(queries, row),
            "why not": _at(trust.get("left_out"), row) or None,
            "licence": known.get("licence") or None,
        }
        rows.append({k: v for k, v in told.items() if v is not None})
    order = ("why not", "trust") if trust else ()
    rows.sort(key=lambda row: [not row.get("why not")] if order else [])
    columns = [name for name in told if any(name in row for row in rows)]
    return [page.paragraph(_about(trust, count)), page.table(rows, columns)]


def _about(trust: dict[str, Any], total: int) -> str:
    teachers = nouns.count(total, "teacher")
    if not trust:
        return f"{teachers} took part; this method judges none of them."
    believed = sum(weight > 0 for weight in trust["weights"])
    others = ", the others not at all" if believed < total else ""
    return (
        f"{believed} of {teachers} {'was' if total == 1 else 'were'} believed"
        f"{others}. A "
        "teacher is left out if an answer is not finite, if its answers tell less than "
        "a quarter of the usual information about an image (entropy of the mean "
        "prediction less mean entropy), or if it contradicts the others: neither does "
        "it take their images for what they are (agrees) nor they its own "
        "(recognised), by two standard errors above chance."
    )


def _classes(known: dict[str, Any]) -> str | None:
    names = known.get("classes")
    if not names:
        return None
    more = f", ... ({len(names)})" if len(names) > _FEW else ""
    return ", ".join(short(str(name), 24) for name in names[:_FEW]) + more


def _at(values: Any, row: int, otherwise: Any = None) -> Any:
    if values is None or row >= len(values):
        return otherwise
    # What is not finite is text in files.
    return None if values[row] in ("nan", None) else values[row]


def _percent(share: Any) -> str | None:
    return None if share is None else f"{100 * float(share):.1f}"


def differences(sample: Samples | None) -> Sequence[Html]:
    """The same images as each teacher sees them, in a plane."""
    if sample is None or len(sample.columns) < 3 or not len(sample.seen):
        return []
    number, images = len(sample.teachers), len(sample.seen)
    rows = likeness.views(sample.logits, sample.columns).reshape(-1, images)
    places = likeness.in_a_plane(rows)
    names = [short(name, 22) for name in sample.teachers]
    if len(set(names)) < number:  # Shortened, or by chance the same.
        names = [f"{row}: {name}" for row, name in enumerate(names)]
    coloured = {
        "teacher": np.repeat(names, images),
        "network and data": np.repeat([short(x, 30) for x in sample.domains], images),
        "class": [short(sample.classes[i], 22) for i in sample.seen] * number,
    }
    drawn = []
    for what, groups in coloured.items():
        groups = [str(group) for group in groups]
        if what != "teacher" and len(set(groups)) < 2:
            continue
        uri = plots.drawing_uri(plots.Dots(places, groups), (5.6, 4.2))
        more = "; colours in order of the zoo" if len(set(groups)) > 20 else ""
        drawn.append(page.figure(uri, f"Coloured by {what}{more}"))
    close = likeness.alike(sample)
    least = names[int(close.argmin())]
    about = (
        f"{images} recovered images as each of {number} teachers sees them: a point is "
        "an image in the eyes of one teacher, placed by how alike that teacher finds "
        "it to the other images (t-SNE of cosines of log-probabilities, perplexity "
        f"{min(30.0, (len(rows) - 1) / 3):.3g}). Where points gather by class, "
        "teachers see the same; where they gather by teacher, each has its own view."
    )
    told = (
        f"Linear CKA of a teacher's answers with those of all others together: "
        f"{close.min():.2f} to {close.max():.2f}, median {np.median(close):.2f} (1: "
        f"the same view); least alike: {least}."
    )
    return [page.paragraph(about), page.paragraph(told), page.figures(drawn)]
