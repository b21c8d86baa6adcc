"""The smallest run of each method ends with the numbers that it always ended with.

On the machine that made ``metrics.json`` they are equal to the bit, which
``FREE_JAX_GOLDEN_EXACT=1`` asks for; elsewhere to 1e-4.
"""

import json
import math
import os
import pathlib

import pytest
from golden import make

EXPECTED = json.loads(
    (pathlib.Path(__file__).parent / "golden" / "metrics.json").read_text()
)
EXACT = bool(os.environ.get("FREE_JAX_GOLDEN_EXACT"))


def differences(found, expected, where="") -> list[str]:
    """One line for every value that differs; numbers by up to 1e-4 unless EXACT."""
    if isinstance(expected, dict) and isinstance(found, dict):
        lines = [f"{where}/{key}: new" for key in found.keys() - expected.keys()]
        lines += [f"{where}/{key}: gone" for key in expected.keys() - found.keys()]
        for key in found.keys() & expected.keys():
            lines += differences(found[key], expected[key], f"{where}/{key}")
        return sorted(lines)
    if isinstance(expected, list) and isinstance(found, list):
        if len(found) != len(expected):
            return [f"{where}: {len(found)} rows, not {len(expected)}"]
        rows = enumerate(zip(found, expected, strict=True))
        return [x for i, pair in rows for x in differences(*pair, f"{where}/{i}")]
    if isinstance(expected, float) and isinstance(found, float) and not EXACT:
        if math.isclose(found, expected, rel_tol=1e-4, abs_tol=1e-4):
            return []
    return [] if found == expected else [f"{where}: {found}, not {expected}"]


# A run takes up to two minutes, nearly all of it compilation by XLA's own settings.
SLOW = ("baselines", "bidf", "episodic", "preinverted", "purer", "whitened")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in make.RUNS
    ],
)
def test_the_numbers_are_those_of_before(name, smoke_run):
    found = differences(make.collected(smoke_run(name)), EXPECTED[name])
    assert not found, "\n".join(found)


def test_differences_are_told():
    found = {"a": [1.0, {"b": 2}], "c": ""}
    assert differences(found, {"a": [1.00001, {"b": 2}], "c": ""}) == (
        ["/a/0: 1.0, not 1.00001"] if EXACT else []
    )
    assert differences(found, {"a": [1.1, {"b": 3}], "d": 0}) == [
        "/a/0: 1.0, not 1.1",
        "/a/1/b: 2, not 3",
        "/c: new",
        "/d: gone",
    ]
