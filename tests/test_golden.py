"""The smallest run of each method ends with the numbers that it always ended with.

On a kind of machine that a file of ``golden/metrics`` is of, they are those of the file
to 1e-4, or to the bit where ``FREE_JAX_GOLDEN_EXACT=1`` asks for it.  On any other kind
the last bit of a product grows to percents within a few steps of Adam (`golden.make`):
there they are those of one of the files to 1e-4, or losses to a sixth and accuracies to
20 points, so that only what changes them grossly is found, and a warning says so.  Bits
that are asked for where no file is of the kind are a failure.
"""

import json
import math
import os
import pathlib
import sys
import warnings

import pytest
from golden import make

FILES = sorted((pathlib.Path(__file__).parent / "golden" / "metrics").glob("*.json"))
KNOWN = [json.loads(file.read_text()) for file in FILES]
EXACT = bool(os.environ.get("FREE_JAX_GOLDEN_EXACT"))


def near(found: float, expected: float, name: str) -> bool:
    """As machines of one kind agree: to the bit where EXACT, else to 1e-4."""
    del name
    return not EXACT and math.isclose(found, expected, rel_tol=1e-4, abs_tol=1e-4)


def roughly(found: float, expected: float, name: str) -> bool:
    """As machines of two kinds agree after some steps."""
    is_loss = any(part in name for part in ("loss", "_ce", "kl"))
    share = expected < 1.0 + 1e-6  # Of one, not of a hundred.
    points = 0.2 if share else 20.0
    bounds = {"rel_tol": 1 / 6} if is_loss else {"abs_tol": points, "rel_tol": 1e-4}
    return math.isclose(found, expected, **bounds)


def differences(found, expected, agree=near, where="") -> list[str]:
    """One line for every value that differs; numbers as `agree` says."""
    if isinstance(expected, dict) and isinstance(found, dict):
        lines = [f"{where}/{key}: new" for key in found.keys() - expected.keys()]
        lines += [f"{where}/{key}: gone" for key in expected.keys() - found.keys()]
        for key in found.keys() & expected.keys():
            lines += differences(found[key], expected[key], agree, f"{where}/{key}")
        return sorted(lines)
    if isinstance(expected, list) and isinstance(found, list):
        if len(found) != len(expected):
            return [f"{where}: {len(found)} rows, not {len(expected)}"]
        rows = enumerate(zip(found, expected, strict=True))
        return [x for i, two in rows for x in differences(*two, agree, f"{where}/{i}")]
    if isinstance(expected, float) and isinstance(found, float):
        if agree(found, expected, where):
            return []
    return [] if found == expected else [f"{where}: {found}, not {expected}"]


def wrong(found: dict, name: str, here: str, known: list[dict]) -> list[str]:
    """What differs in a run on a machine whose probe is `here`."""
    known = [one for one in known if name in one["runs"]]
    of_kind = [one for one in known if here and one["probe"] == here]
    if of_kind:
        return differences(found, of_kind[0]["runs"][name])
    if EXACT:
        pytest.fail(
            f"no file of tests/golden/metrics holds {name} of this kind of machine "
            f"(probe {here}), so that no bit can be compared; run on two cores, as "
            "files are made, or make one at a commit that is known to be right: "
            "python tests/golden/make.py tests/golden/metrics/NAME.json",
            pytrace=False,
        )
    if not known:
        pytest.skip(f"no file of tests/golden/metrics holds {name}")
    every = [differences(found, one["runs"][name]) for one in known]
    if not all(every):
        return []
    warnings.warn(
        f"golden: {name} is only searched for gross changes: no file holds it of this "
        f"kind of machine (probe {here})",
        stacklevel=2,
    )
    return differences(found, known[0]["runs"][name], roughly)


# A run takes up to two minutes, nearly all of it compilation by XLA's own settings.
SLOW = ("baselines", "bidf", "episodic", "preinverted", "purer", "tgr", "trustworthy")
SLOW += ("whitened",)


@pytest.mark.filterwarnings("default:golden")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in make.RUNS
    ],
)
def test_the_numbers_are_those_of_before(name, smoke_run):
    found = make.collected(smoke_run(name))
    lines = wrong(found, name, make.probe(), KNOWN)
    assert not lines, "\n".join(lines)


def test_an_unknown_kind_warns_and_fails_where_bits_are_asked_for(monkeypatch):
    known = [{"probe": "a", "runs": {"r": {"loss": 1.0}}}]
    monkeypatch.setattr(sys.modules[__name__], "EXACT", False)
    assert not wrong({"loss": 1.00001}, "r", "a", known)
    assert wrong({"loss": 1.1}, "r", "a", known)
    assert not wrong({"loss": 1.00001}, "r", "b", known)
    # A probe that was not noted is no kind.
    for here, of in (("b", "a"), ("", "")):
        with pytest.warns(UserWarning, match=rf"golden: r .*\(probe {here}\)"):
            assert not wrong({"loss": 1.1}, "r", here, [{**known[0], "probe": of}])
    with pytest.warns(UserWarning, match="golden"):
        assert wrong({"loss": 2.0}, "r", "b", known)
    with pytest.raises(pytest.skip.Exception, match="holds other"):
        wrong({"loss": 1.0}, "other", "a", known)
    monkeypatch.setattr(sys.modules[__name__], "EXACT", True)
    assert not wrong({"loss": 1.0}, "r", "a", known)
    assert wrong({"loss": 1.00001}, "r", "a", known)
    with pytest.raises(pytest.fail.Exception, match=r"\(probe b\).*on two cores"):
        wrong({"loss": 1.0}, "r", "b", known)


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


def test_machines_of_two_kinds_agree_roughly_and_gross_changes_are_found():
    first, second = (known["runs"] for known in KNOWN[:2])
    for name in first.keys() & second.keys():
        assert not differences(second[name], first[name], roughly)
        assert differences(first[name] | {"meta_updates": 99}, first[name], roughly)
    assert not roughly(0.03, 0.02, "/distill_loss")
    assert not roughly(61.0, 40.0, "/inductive")
