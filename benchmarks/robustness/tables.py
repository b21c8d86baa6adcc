"""Tables and a plot of the cells that are there."""

import numpy as np

from benchmarks.robustness.cells import rows_of
from benchmarks.robustness.defences import COUNTS, DEFENCES
from benchmarks.robustness.world import ATTACKS, Bench

LIMITS = """
Read with care: for "random" and "domain" the victims' own inversions are removed and
none of the hostile teachers' were made, which is the attack at its weakest; stand-ins
repeat where there are fewer of them than victims; students are short.
"selection" keeps whom it draws with half of the uniform chance, a cutoff of ours that
fails on honest zoos, and is rewarded by real validation images: not data-free."""


def tables(bench: Bench) -> None:
    """Prints tables of what is there, and what they do not show."""
    print(LIMITS)
    found = rows_of(bench, "found")
    for which in ("revised", "one pass") if found else ():
        of_rule = [r if which == "revised" else r | r.get(which, {}) for r in found]
        if which == "one pass" and not all(which in r for r in found):
            continue
        print(f"\nleft out by trust ({which}): hits/hostile, false alarms/honest\n")
        shares = sorted({row["share"] for row in found})
        print("| attack |", " | ".join(f"{s:.0%}" for s in shares), "|")
        print("|---" * (len(shares) + 1) + "|")
        for kind in dict.fromkeys(row["attack"] for row in found):
            texts = []
            for share in shares:
                of = [r for r in of_rule if (r["attack"], r["share"]) == (kind, share)]
                total = {k: sum(r[k] for r in of) for k in COUNTS}
                texts.append(
                    "{hits}/{hostile}, {false alarms}/{honest}".format(**total)
                    if of
                    else ""
                )
            print("|", kind, "|", " | ".join(texts), "|")
    for part in ("panel", "students"):
        table(part, rows_of(bench, part))


def of_cells(rows: list[dict]) -> dict[tuple[str, str, float], list[dict]]:
    """The rows of all seeds by (attack, defence, share)."""
    found: dict[tuple[str, str, float], list[dict]] = {}
    for row in rows:
        key = (row["attack"], row["defence"], row["share"])
        found.setdefault(key, []).append(row)
    return found


def mean(rows: list[dict], name: str) -> float:
    return float(np.mean([row[name] for row in rows]))


def table(part: str, rows: list[dict]) -> None:
    """Means over the seeds that are there; how many, where it is not one."""
    if not rows:
        return
    print(f"\n{part}: 1-shot / 5-shot (1-shot with patched queries), xN: mean of N\n")
    found = of_cells(rows)
    shares = sorted({row["share"] for row in rows if row["share"]})
    print("| attack | defence | 0% |", " | ".join(f"{s:.0%}" for s in shares), "|")
    print("|---" * (len(shares) + 3) + "|")

    def text(rows: list[dict]) -> str:
        if not rows:
            return ""
        one, five, patched = (mean(rows, n) for n in ("1-shot", "5-shot", "patched"))
        seeds = f" x{len(rows)}" if len(rows) > 1 else ""
        return f"{one:.1f} / {five:.1f} ({patched:.1f}){seeds}"

    for kind in (k for k in ATTACKS if any(r["attack"] == k for r in rows)):
        for defence in DEFENCES:
            of = [found.get((kind, defence, share), []) for share in shares]
            if any(of):
                texts = [text(found.get(("honest", defence, 0.0), [])), *map(text, of)]
                print("|", kind, "|", defence, "|", " | ".join(texts), "|")


def plot(bench: Bench) -> None:
    """One panel an attack: accuracy of students against the share of hostile ones."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = rows_of(bench, "students")
    kinds = [k for k in ATTACKS if any(r["attack"] == k for r in rows)]
    if not kinds:
        return
    figure, axes = pyplot.subplots(
        1, len(kinds), figsize=(3.2 * len(kinds), 3.4), sharey=True, squeeze=False
    )
    found = of_cells(rows)
    for axis, kind in zip(axes[0], kinds, strict=True):
        for number, defence in enumerate(DEFENCES):
            of = {k[2]: r for k, r in found.items() if k[:2] == (kind, defence)}
            if of and ("honest", defence, 0.0) in found:
                of[0.0] = found["honest", defence, 0.0]
            if of:
                points = [(share, mean(of[share], "1-shot")) for share in sorted(of)]
                axis.plot(
                    *zip(*points, strict=True), "o-", color=f"C{number}", label=defence
                )
        axis.set(title=kind, xlabel="share of hostile teachers")
        axis.axhline(20, color="grey", linestyle=":")
    axes[0, 0].set(ylabel="1-shot accuracy, validation classes (%)")
    known = {}
    for axis in axes[0]:
        handles, names = axis.get_legend_handles_labels()
        known |= dict(zip(names, handles, strict=True))
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    names = [name for name in DEFENCES if name in known]
    figure.legend(
        [known[name] for name in names], names, loc="lower center", ncol=len(names)
    )
    figure.savefig(bench.home / "robustness.png", dpi=120)
    print(f"written: {bench.home / 'robustness.png'}")
