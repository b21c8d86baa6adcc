"""Arrays whose rows are read when they are asked for.

What grows with a zoo (images, answers, weights) need not be in memory as a whole: it
lies in files, and whoever uses it takes some rows at a time.  Such an array has
``shape``, ``dtype``, ``len`` and is indexed along its first axis; `numpy.asarray` reads
all of it.
"""

import os
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from free_jax.errors import InputError


class FileRows:
    """An array in a file, uncompressed and in C order.

    Memory of the process holds what was asked for only: rows are read, not mapped.
    """

    def __init__(self, file: Any, offset: int, dtype: Any, shape: Sequence[int]):
        """Notes where the array is.

        Args:
          file: local path.
          offset: of the first number, in bytes.
          dtype: of the numbers.
          shape: of the array, at least one axis.
        """
        # Another process that is handed this may work in another folder.
        self.file, self.offset = os.path.abspath(file), offset
        # By which the file is known again: another at its place has other rows.
        self._noted = _noted(os.stat(self.file))
        self.dtype, self.shape = np.dtype(dtype), tuple(map(int, shape))

    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: int(np.prod(self.shape)))
    nbytes = property(lambda self: self.size * self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = _rows(index, len(self))
        found = np.empty((rows.size, *self.shape[1:]), self.dtype)
        width = self.nbytes // max(len(self), 1)
        if width and rows.size:
            # Rows that follow one another are read at once.
            flat = memoryview(found.reshape(-1).view(np.uint8).data)
            runs = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
            with open(self.file, "rb", buffering=0) as opened:
                if _noted(os.fstat(opened.fileno())) != self._noted:
                    raise InputError(
                        f"{self.file} is another file than it was; run the command "
                        "again"
                    )
                for start, stop in zip(runs, [*runs[1:], rows.size], strict=True):
                    opened.seek(self.offset + int(rows[start]) * width)
                    _fill(opened, flat[start * width : stop * width])
        return found[0] if np.ndim(index) == 0 and _is_number(index) else found

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        del copy
        return np.asarray(self[:], dtype)


class Rows:
    """Arrays, in memory or in files, one after the other, or some rows of them."""

    def __init__(self, parts: Sequence[Any], index: np.ndarray | None = None):
        """Joins parts of equal types and shapes but for their lengths.

        Args:
          parts: at least one.
          index: which rows, in which order; None: all.
        """
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self._index = index
        count = int(self._ends[-1]) if index is None else len(index)
        self.dtype, self.shape = parts[0].dtype, (count, *parts[0].shape[1:])

    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: int(np.prod(self.shape)))
    nbytes = property(lambda self: self.size * self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def select(self, index: Any) -> "Rows":
        """Some of the rows; nothing is read."""
        rows = _rows(index, len(self))
        return Rows(self.parts, rows if self._index is None else self._index[rows])

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = _rows(index, len(self))
        if self._index is not None:
            rows = self._index[rows]
        found = np.empty((rows.size, *self.shape[1:]), self.dtype)
        where = np.searchsorted(self._ends, rows, side="right")
        for number in np.unique(where):
            mine = where == number
            first = self._ends[number] - len(self.parts[number])
            found[mine] = self.parts[number][rows[mine] - first]
        return found[0] if np.ndim(index) == 0 and _is_number(index) else found

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        del copy
        return np.asarray(self[:], dtype)


def joined(parts: Sequence[Any]) -> Any:
    """Arrays one after the other: in memory where all are, else `Rows`."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    flat = []
    for part in parts:
        whole = isinstance(part, Rows) and part._index is None
        flat += part.parts if whole else [part]
    return Rows(flat)


def chosen(array: Any, index: Any) -> Any:
    """Some rows of an array; of one that is in files nothing is read."""
    if isinstance(array, FileRows):
        array = Rows([array])
    return array.select(index) if isinstance(array, Rows) else array[index]


def mean(array: Any, *, at_once: int = 256) -> Any:
    """The mean of the rows; of an array in files some are read at a time.

    Those are added up in float64, so that their number does not matter.
    """
    if not in_files(array):
        return array.mean(0)
    total = np.zeros(array.shape[1:], np.float64)
    for start in range(0, len(array), at_once):
        total += array[start : start + at_once].sum(0, dtype=np.float64)
    return (total / len(array)).astype(array.dtype)


def in_files(array: Any) -> bool:
    """Whether an array is read when it is asked for."""
    return isinstance(array, FileRows | Rows)


def in_archive(file: Any, by_rows: Sequence[str]) -> dict[str, Any]:
    """The arrays of an ``.npz`` file that was written uncompressed.

    Args:
      file: local path.
      by_rows: names of arrays that become `FileRows` if there are any; others are read.

    Raises:
      ValueError, KeyError, EOFError, zipfile.BadZipFile: a damaged file.
    """
    found: dict[str, Any] = {}
    with zipfile.ZipFile(file) as archive, np.load(file, allow_pickle=False) as stored:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            stays = name in by_rows and not entry.compress_type
            found[name] = _member(file, archive, entry) if stays else None
            if found[name] is None:
                found[name] = stored[name]
    return found


def _member(
    file: Any, archive: zipfile.ZipFile, entry: zipfile.ZipInfo
) -> FileRows | None:
    """Where an array of an archive is; None where it has no rows of its own."""
    with archive.open(entry) as opened:
        version = np.lib.format.read_magic(opened)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, columns_first, dtype = read(opened)
        header = opened.tell()
    if not shape or columns_first or dtype.hasobject:
        return None
    with open(file, "rb") as opened:
        # Lengths of the local header are its own: they may differ from the table's.
        opened.seek(entry.header_offset + 26)
        sizes = np.frombuffer(opened.read(4), "<u2")
    start = entry.header_offset + 30 + int(sizes.sum()) + header
    return FileRows(file, start, dtype, shape)


def _noted(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _is_number(index: Any) -> bool:
    return isinstance(index, int | np.integer) or hasattr(index, "item")


def _rows(index: Any, count: int) -> np.ndarray:
    """The rows that an index along the first axis names."""
    if isinstance(index, slice):
        return np.arange(*index.indices(count))
    if isinstance(index, tuple):
        raise IndexError(f"an index of {len(index)} axes; give the first alone")
    rows = np.atleast_1d(np.asarray(index))
    if rows.size and rows.dtype.kind not in "biu":
        raise IndexError(f"an index of {rows.dtype}; give whole numbers")
    if rows.dtype == bool:
        if rows.shape != (count,):
            raise IndexError(f"a mask of shape {rows.shape} for {count} rows")
        return np.flatnonzero(rows)
    if rows.ndim != 1:
        raise IndexError(f"an index of shape {rows.shape}; give one axis")
    rows = np.where(rows < 0, rows + count, rows).astype(np.int64)
    if rows.size and not (0 <= rows.min() and rows.max() < count):
        raise IndexError(f"rows out of range for {count}")
    return rows


def _fill(opened: Any, room: memoryview) -> None:
    while room:
        count = opened.readinto(room)
        if not count:
            raise EOFError(f"{opened.name} is shorter than it should be")
        room = room[count:]
