"""Does a judge without data order settings as validation classes do?

    python benchmarks/choosing.py runs/ablation/*

Reads finished runs of `panel_ablation_cifar_fs.py` that held classes out
(``--config.panel.held_out_classes=10 --config.eval.val_episodes=600``): each was judged
by episodes of images recovered for those classes, and by real validation classes.
Prints both, and the rank correlation between them over the runs.
"""

import argparse
import json
import pathlib

from scipy import stats

JUDGE, TRUTH = "pseudo_inductive", ("val_1shot_inductive", "val_5shot_inductive")


def read(folder: pathlib.Path) -> dict[str, float] | None:
    """The last scores of a run, or None where it has not got both kinds."""
    file = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [row for row in rows if JUDGE in row and set(TRUTH) <= set(row)]
    return rows[-1] if rows else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=pathlib.Path)
    found = {
        run.name: row
        for run in parser.parse_args().runs
        if (run / "metrics.jsonl").exists() and (row := read(run))
    }
    if len(found) < 3:
        parser.error(
            f"{len(found)} of these runs hold {JUDGE} and {TRUTH[0]}; give three or "
            "more with config.panel.held_out_classes and config.eval.val_episodes"
        )
    order = sorted(found, key=lambda name: -found[name][JUDGE])
    print("| setting | held-out classes, no data | validation 1-shot | 5-shot |")
    print("|---|---|---|---|")
    for name in order:
        row = found[name]
        one, five = (
            f"{row[score]:.1f} +- {row[score + '_ci95']:.1f}" for score in TRUTH
        )
        print(f"| {name} | {row[JUDGE]:.1f} | {one} | {five} |")
    for score in TRUTH:
        judged = [found[name][JUDGE] for name in order]
        real = [found[name][score] for name in order]
        rank = stats.spearmanr(judged, real).statistic
        print(f"rank correlation with {score}: {rank:.2f} over {len(order)} settings")


if __name__ == "__main__":
    main()
