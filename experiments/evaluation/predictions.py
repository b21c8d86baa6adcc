"""Predictions about a user's own pictures: a table, a judgement, a page to look at."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from experiments.harness import page
from free_jax.errors import InputError
from free_jax.fewshot import evaluation
from free_jax.interop.hub.names import no_formula

# Of more classes, a table of all against all is for files, not for a terminal.
# Columns before one of each class.
COLUMNS = ("image", "predicted", "score")
_MOST_SHOWN = 12
_WIDEST = 12  # Characters of a column on a terminal.


class Prediction(NamedTuple):
    """What is said about a picture.

    Attributes:
      name: of the picture.
      scores: [way] which sum to one; None: it could not be read.
      small: a data URI; empty: it is not shown.
    """

    name: str
    scores: np.ndarray | None
    small: str = ""

    @property
    def best(self) -> int:
        """The class of the largest score; the picture was read."""
        assert self.scores is not None
        return int(self.scores.argmax())


class Judgement(NamedTuple):
    """Predictions against the truth: one episode.

    Attributes:
      correct: pictures whose largest score was right.
      total: pictures that were read.
      interval: Wilson's 95 % interval of the share, in [0, 1].
      confusion: [way, way] pictures; rows are true classes, columns predicted ones.
    """

    correct: int
    total: int
    interval: tuple[float, float]
    confusion: np.ndarray


def check_classes(classes: Sequence[str]) -> None:
    """Refuses classes that would be mistaken for another column of the table."""
    for name in classes:
        if name in COLUMNS:
            raise InputError(
                f"--support: a class named {name!r} would be mistaken for that column "
                "of the table; rename its folder"
            )


def as_csv(predictions: Sequence[Prediction], classes: Sequence[str]) -> str:
    """``image,predicted,score,<class>...``; what could not be read has empty cells.

    Names that a spreadsheet would compute start with an apostrophe, see `no_formula`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [no_formula(name) for name in classes]
    writer.writerow([*COLUMNS, *names])
    for said in predictions:
        image = no_formula(said.name)
        if said.scores is None:
            writer.writerow([image] + [""] * (2 + len(classes)))
            continue
        scores = [f"{score:.6f}" for score in said.scores]
        writer.writerow([image, names[said.best], scores[said.best], *scores])
    return text.getvalue()


def judge(
    predictions: Sequence[Prediction], truth: Sequence[int], way: int
) -> Judgement:
    """Counts what is right among pictures that were read, at least one.

    Args:
      predictions: a record for each picture.
      truth: the class of each.
      way: number of classes.
    """
    confusion = np.zeros((way, way), np.int64)
    for said, true in zip(predictions, truth, strict=True):
        if said.scores is not None:
            confusion[true, said.best] += 1
    correct, total = int(confusion.trace()), int(confusion.sum())
    return Judgement(correct, total, evaluation.wilson(correct, total), confusion)


def judgement_text(judgement: Judgement, classes: Sequence[str]) -> str:
    """The accuracy and, of few classes, who was taken for whom."""
    low, high = (100 * end for end in judgement.interval)
    lines = [
        f"accuracy {100 * judgement.correct / judgement.total:.1f} % "
        f"({judgement.correct} of {judgement.total} pictures; 95 % interval {low:.1f} "
        f"to {high:.1f} for these support pictures: it is one episode)"
    ]
    if len(classes) > _MOST_SHOWN:
        return lines[0]
    names = [_short(name) for name in classes]
    width = max(map(len, names))
    lines.append(f"{'true':>{width}}  predicted " + "  ".join(names))
    for name, row in zip(names, judgement.confusion, strict=True):
        cells = (f"{n:>{len(head)}}" for n, head in zip(row, names, strict=True))
        lines.append(f"{name:>{width}}  {'':9} " + "  ".join(cells))
    return "\n".join(lines)


def _short(name: str) -> str:
    # Names of folders may hold line breaks.
    name = " ".join(name.split())
    return name if len(name) <= _WIDEST else name[: _WIDEST - 2] + ".."


def as_page(
    predictions: Sequence[Prediction],
    classes: Sequence[str],
    support: Sequence[tuple[int, str]],
    *,
    about: str,
    truth: Sequence[int] | None = None,
) -> str:
    """An HTML page that needs no other file: pictures by predicted class, surest first.

    Args:
      predictions: a record for each picture.
      classes: their names.
      support: class and data URI of each support picture.
      about: a line under the title.
      truth: class of each picture, if it is known; errors are marked.
    """
    shown: list[list[tuple[float, page.Picture]]] = [[] for _ in classes]
    counts = np.zeros(len(classes), int)
    unread, left_out = [], 0
    for number, said in enumerate(predictions):
        if said.scores is None:
            unread.append(said.name)
            continue
        counts[said.best] += 1
        if not said.small:
            left_out += 1
        else:
            score = float(said.scores[said.best])
            true = said.best if truth is None else truth[number]
            wrong = true != said.best
            told = [f"is {classes[true]}"] if wrong else []
            caption = page.lines(said.name, f"{score:.2f}", *told)
            shown[said.best].append((-score, page.Picture(said.small, caption, wrong)))
    sections = []
    for number, name in enumerate(classes):
        given = [page.Picture(small) for label, small in support if label == number]
        found = [picture for _, picture in sorted(shown[number], key=lambda x: x[0])]
        told = f"Predicted: {counts[number] or 'none'}"
        if counts[number] > len(found):
            told += f" ({len(found)} of them shown)"
        blocks = [
            page.heading("Support pictures"),
            page.gallery(given),
            page.heading(told),
            page.gallery(found),
        ]
        sections.append(page.Section(name, blocks))
    if unread:
        sections.append(page.Section("Not readable", [page.items(unread)]))
    more = f"{left_out} more pictures are in the CSV file only."
    return page.page("Predictions", [about, *([more] if left_out else [])], sections)
