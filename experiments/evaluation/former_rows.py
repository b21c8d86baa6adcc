"""Results of format 1, with the names of today."""

from typing import Any

from etils import epath

from experiments.harness import results

# Rows of a table as format 1 called them -> their names today.
FORMER_ROWS = {
    "panel distilled, ridge / rounds": "panel distilled, ridge / soft k-means",
    "panel of all teachers, ridge / rounds": (
        "panel of all teachers, ridge / soft k-means"
    ),
    "panel of all teachers, whitened, ridge / rounds": (
        "panel of all teachers, whitened, ridge / soft k-means"
    ),
}


def read_result(path: epath.PathLike) -> dict[str, Any]:
    """A result of any format, with the names of today, see `results.read_result`."""
    return results.read_result(path, from_format_1)


def row_name(name: str) -> str:
    """The name today of a row, also of one after its cell's, as in ``cell: row``.

    >>> row_name("panel: panel distilled, ridge / rounds")
    'panel: panel distilled, ridge / soft k-means'
    """
    cell, separator, row = name.rpartition(": ")
    return cell + separator + FORMER_ROWS.get(row, row)


def from_format_1(record: dict[str, Any]) -> dict[str, Any]:
    """Rows and keys renamed; what it does not hold stays missing."""
    found = {key: value for key, value in record.items() if key != "schema_version"}
    found["format"] = results.FORMAT
    if found.get("algorithm") == "yardsticks":
        found["algorithm"] = "baselines"
    if isinstance(found.get("results"), dict):
        rows = found["results"].items()
        found["results"] = {row_name(name): cells for name, cells in rows}
    if isinstance(found.get("rows"), list):  # of a comparison
        found["rows"] = [
            row | {"method": row_name(row["method"])} if "method" in row else row
            for row in found["rows"]
        ]
    queries = found.get("queries")
    if isinstance(queries, dict) and "queries" in queries:  # of endpoints
        total = {"total": queries["queries"]}
        rest = {key: value for key, value in queries.items() if key != "queries"}
        found["queries"] = total | rest
    return found
