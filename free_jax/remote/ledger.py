"""Requests by endpoint, and every answer, on disk before it is used."""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from free_jax.errors import InputError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, logits BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sent (
  id INTEGER PRIMARY KEY, endpoint TEXT, images INTEGER, outcome TEXT
);
"""
# How a request ended. It is "open" from before it is sent until its end is on disk, so
# that one that was under way when the process was killed counts as billed.
OPEN, ANSWERED, FAILED, REFUSED = "open", "answered", "failed", "refused"
BILLED = (OPEN, ANSWERED, FAILED)


class Ledger:
    """Counts of images sent, and answers by endpoint and image.

    One row a request in ``sent``, one row an image in ``answers``.  Used from one
    thread at a time.
    """

    def __init__(self, file: Any = ":memory:"):
        """Opens or makes the file.

        Raises:
          InputError: the file is no ledger.
        """
        try:
            self._db = sqlite3.connect(file, check_same_thread=False)
            # With a write-ahead log a commit survives the death of the process, and
            # costs no wait for the disk.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(_SCHEMA)
            rows = self._db.execute(
                "SELECT endpoint, outcome, SUM(images) FROM sent GROUP BY 1, 2"
            ).fetchall()
        except sqlite3.Error as error:
            raise InputError(
                f"{file}: cannot be read as a ledger of queries ({error}); restore it, "
                "or use another --workdir"
            ) from None
        self._counts = Counter({(name, how): images for name, how, images in rows})

    def billed(self, endpoint: str) -> int:
        """Images that the endpoint was sent and may charge for, retries included."""
        return sum(self._counts[endpoint, outcome] for outcome in BILLED)

    def counts(self, endpoint: str) -> dict[str, int]:
        """Images by how their requests ended."""
        return {how: self._counts[endpoint, how] for how in (*BILLED, REFUSED)}

    def send(self, endpoint: str, images: int) -> tuple[int, str, int]:
        """Records a request that is about to be sent; returns its ticket."""
        with self._db:
            row = self._db.execute(
                "INSERT INTO sent (endpoint, images, outcome) VALUES (?, ?, ?)",
                (endpoint, images, OPEN),
            )
        self._counts[endpoint, OPEN] += images
        assert row.lastrowid is not None
        return row.lastrowid, endpoint, images

    def settle(
        self,
        ticket: tuple[int, str, int],
        outcome: str,
        answers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """Records how a request ended, together with its answers."""
        number, endpoint, images = ticket
        with self._db:
            self._db.execute(
                "UPDATE sent SET outcome = ? WHERE id = ?", (outcome, number)
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO answers VALUES (?, ?)", answers
            )
        self._counts[endpoint, OPEN] -= images
        self._counts[endpoint, outcome] += images

    def look_up(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """The answers that are known, float32."""
        found: dict[bytes, np.ndarray] = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, logits FROM answers WHERE key IN ({marks})"
            for key, logits in self._db.execute(query, part):
                found[key] = np.frombuffer(logits, np.float32)
        return found

    def close(self) -> None:
        """Closes the file."""
        self._db.close()


def image_keys(identity: str, images: np.ndarray) -> list[bytes]:
    """One key for each image: a digest of the model and of the exact pixels."""
    start = hashlib.blake2b(identity.encode(), digest_size=16)
    keys = []
    for image in np.ascontiguousarray(images):
        digest = start.copy()
        digest.update(image.data)
        keys.append(digest.digest())
    return keys
