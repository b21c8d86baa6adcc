"""Which judgement without data orders settings as real validation classes do.

    python -m benchmarks.judges --workdir=DIR --pool=RUN --data=DIR/cifar_fs \
        -- --config=experiments/configs/panel.py --config.zoo.path=ZOO ...

Ten settings of one distillation (what follows ``--`` says the config, the zoo and the
sizes as the run POOL had them) reuse the images and answers of a finished run, without
those of `--judges` of its teachers.  Each is judged in four ways, and on real
validation classes; the table ends with the rank correlations:

- tasks: few-shot episodes of what each held-out teacher is surest of
  (`panel.held_out_tasks`, ``config.eval.select=pseudo``);
- linear: how well the held-out teachers' answers about half of the images are predicted
  by ridge regression on descriptions of the other half;
- halves: how alike the similarities between images are by one half of the model's heads
  and by the other (linear CKA);
- loss: how near the model came to its own teachers, at the last step.

``--others`` are ten other settings, for another zoo: a judge is chosen by the first ten
and reported once on these.  Settings are runs of their own in DIR, which continue when
interrupted.
"""

import argparse
import itertools
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

from experiments import inputs, train
from experiments.inputs import command_line
from experiments.methods import checks
from experiments.stages import reuse
from free_jax import keys, load_model, panel
from free_jax.fewshot import heads
from free_jax.panel import model as distilled

SETTINGS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "100 steps": ("num_steps=100",),
    "8 filters": ("student=conv4(width=8)",),
    "16 filters": ("student=conv4(width=16)",),
    "rate 1e-3": ("distill.optimizer.kwargs.learning_rate=1e-3",),
    "temperature 8": ("distill.temperature=8.0",),
    "temperature 1": ("distill.temperature=1.0",),
    "not whitened": ("distill.whitening=0.0",),
    "statistics not fitted": ("distill.fit_images=0",),
    "blended pairs, shifts of 4": ("distill.mix=mixup", "distill.crop_padding=4"),
}

# Those that a judge is reported on once it is chosen by the others.
OTHERS: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "60 steps": ("num_steps=60",),
    "4 filters": ("student=conv4(width=4)",),
    "rate 3e-3": ("distill.optimizer.kwargs.learning_rate=3e-3",),
    "rate 5e-2": ("distill.optimizer.kwargs.learning_rate=5e-2",),
    "temperature 4": ("distill.temperature=4.0",),
    "temperature 16": ("distill.temperature=16.0",),
    "batches of 32": ("distill.batch_size=32",),
    "pasted rectangles": ("distill.mix=cutmix",),
    "similarities": ("distill.similarity=1.0",),
}


def linear(descriptions: np.ndarray, answers: np.ndarray) -> float:
    """Share of the variance of log-probabilities that a ridge regression explains."""
    half = len(descriptions) // 2
    logs = np.asarray(jax.nn.log_softmax(answers / 2.0, axis=1))
    logs = logs - logs.mean(1, keepdims=True)
    x = np.asarray(heads.unit(jnp.asarray(descriptions)))
    x = x - x[:half].mean(0)
    mean = logs[:half].mean(0)
    gram = x[:half].T @ x[:half]
    gram += 1e-2 * np.trace(gram) / len(gram) * np.eye(len(gram))
    weights = np.linalg.solve(gram, x[:half].T @ (logs[:half] - mean))
    left = logs[half:] - mean - x[half:] @ weights
    return float(1 - np.square(left).sum() / np.square(logs[half:] - mean).sum())


def halves(rows: np.ndarray, columns: np.ndarray) -> float:
    """Linear CKA of what every second teacher's head says and what the others say."""

    def said(parity: int) -> np.ndarray:
        parts = [
            np.asarray(jax.nn.softmax(rows[:, a:b] / 2.0, axis=1))
            for a, b in list(itertools.pairwise(columns))[parity::2]
        ]
        found = np.concatenate(parts, axis=1)
        return found - found.mean(0)

    a, b = said(0), said(1)
    cross = np.linalg.norm(a.T @ b) ** 2
    return float(cross / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b))


def settings_of(args: argparse.Namespace, name: str) -> list[str]:
    """The command line of one setting; what it changes comes last."""
    return [
        "judges",
        *args.rest,
        f"--config.num_steps={args.steps}",
        f"--config.recover.reuse={args.pool}",
        f"--config.panel.held_out_teachers={args.judges}",
        f"--config.data.path={args.data}",
        f"--config.eval.every_steps={args.steps}",  # The last is judged in any case.
        f"--config.eval.val_episodes={args.episodes}",
        "--config.eval.split=val",
        "--config.eval.episodes=2",
        "--config.eval.shots=(1,5)",
        "--config.eval.baselines=()",
        *(f"--config.{line}" for line in (SETTINGS | OTHERS)[name]),
    ]


def measured(args: argparse.Namespace, name: str) -> dict[str, float]:
    """Runs one setting and judges its model."""
    folder = pathlib.Path(args.workdir) / name.replace(" ", "_").replace(",", "")
    config = command_line.parse(settings_of(args, name)).config
    result = train.main(config, str(folder))
    row = result["curve"][-1]
    found = {
        "1-shot": row["val_1shot_inductive"],
        "5-shot": row["val_5shot_inductive"],
        "tasks": row["pseudo_inductive"],
        "loss": -row["distill_loss"],
    }
    kept, of = folder / "judged.json", {"images": args.images, "pool": args.pool}
    before = json.loads(kept.read_text()) if kept.exists() else {}
    if before.get("of") != of:
        before = {"of": of, "found": judged(config, folder, args.images)}
        kept.write_text(json.dumps(before))
    return found | before["found"]


def judged(config, folder: pathlib.Path, images: int) -> dict[str, float]:
    """What the final model says of the pool's images, judged in the other ways."""
    record = checks.validate(config)
    zoo = inputs.load_zoo(record.common.zoo, record.common.data)
    choice = panel.choose(
        keys.named_rng(record.common.seed, "held-out classes"),
        zoo,
        record.panel,
        way=record.common.way,
    )
    everyone = np.arange(zoo.num_teachers)
    made, answers = reuse.everything("reuse", record.recover.reuse, zoo, everyone)
    seen = np.flatnonzero(~np.isin(made.owners, choice.judges))
    seen = np.random.default_rng(0).permutation(seen)[:images]
    network, variables, _ = load_model(folder / "model.npz")
    embed = jax.jit(lambda x: distilled.embed(network, variables, x))
    logits = jax.jit(lambda x: network.apply(variables, x))
    parts = np.array_split(made.images[seen], max(1, len(seen) // 250))
    described = np.concatenate([np.asarray(embed(part)) for part in parts])
    rows = np.concatenate([np.asarray(logits(part)) for part in parts])
    shares = [
        linear(described, answers.logits[seen][:, zoo.columns[t] : zoo.columns[t + 1]])
        for t in choice.judges
    ]
    columns = panel.columns_of(zoo.columns, choice.asked)
    return {"linear": float(np.mean(shares)), "halves": halves(rows, columns)}


def main() -> None:
    """Prints the table and the rank correlations."""
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--judges", type=int, default=4)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--others", action="store_true", help="ten other settings")
    args = parser.parse_args(given[:cut])
    args.rest = given[cut + 1 :]
    names = OTHERS if args.others else SETTINGS
    found = {name: measured(args, name) for name in names}
    columns = list(next(iter(found.values())))
    print(f"\n{'setting':30s}", *(f"{key:>8s}" for key in columns))
    for name, row in found.items():
        print(f"{name:30s}", *(f"{row[key]:8.3f}" for key in columns))
    for key in columns[2:]:
        ranks = [
            spearmanr([r[key] for r in found.values()], [r[s] for r in found.values()])[
                0
            ]
            for s in ("1-shot", "5-shot")
        ]
        print(
            f"rank correlation of {key:8s} with 1-shot {ranks[0]:+.2f}, "
            f"5-shot {ranks[1]:+.2f}"
        )


if __name__ == "__main__":
    main()
