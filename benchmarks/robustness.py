"""Attacks x defences x shares of hostile teachers: what each costs, who is found.

    python -m benchmarks.robustness --workdir=DIR --pool=RUN --zoo=ZOO --other=ZOO2 \
        --data=DIR/cifar_fs --part=found|panel|students|plot

Images and answers are those of a finished panel run of honest teachers; what hostile
ones would say follows from them (a permutation of names, stand-ins asked once).  Parts,
each of which continues where it was stopped (a file a cell, in DIR):

- found: whom the trust rule leaves out, hits and false alarms, for every attack, share
  and seed, and for honest zoos (``--honest=ZOO:RUN,...``); revised and by one pass;
- panel: the panel itself on real validation classes, by nearest centroid;
- students: one network distilled for each attack, defence and share, the same episodes;
- plot: tables and ``robustness.png`` of what is there.

Defences: "none"; "trust", our rule, revised by those who are believed (``trust_passes``
above 1); "selection", Trustworthy-DFML's policy, rewarded by the panel's accuracy on
REAL images of half of the validation classes (as released; not data-free).  Whom it
keeps, those drawn with at least half of the uniform chance, is a cutoff of ours: the
released code has none.  It fails on honest zoos, where the noise of rewards makes the
policy prefer a few of equally good teachers; "class heads" shared by the teachers of a
class, without and with trust; "median" and "trimmed", the middle of a class's votes.
All are measured on the other half of the validation classes; nothing sees a test class.
``patched`` is the accuracy where every query has a white corner.

DIR keeps the settings of what is in it (``*.settings.json``) and refuses others.
"""

import argparse
import functools
import itertools
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import inputs
from experiments.inputs.options import DataOptions, ZooOptions
from experiments.stages import reuse
from free_jax import keys, make_network, panel
from free_jax import zoo as zoo_lib
from free_jax.algorithms import selection
from free_jax.algorithms.selection import SelectionOptions
from free_jax.fewshot import banks, heads
from free_jax.fewshot.episodes import sample_episode
from free_jax.panel import aggregate
from free_jax.panel import model as distilled
from free_jax.panel.distillation import DistillOptions
from free_jax.types import Answers, SyntheticImages, Teachers
from free_jax.zoo import attacks
from free_jax.zoo.attacks import AttackOptions

ATTACKS = ("labels", "colluding", "random", "domain", "backdoor")
DEFENCES = (
    "none",
    "trust",
    "selection",
    "class heads",
    "class heads, trust",
    "median",
    "trimmed",
)
SHARES = (0.1, 0.3, 0.5, 0.7)
PARTS = ("found", "panel", "students")
# What decides the answers that are kept, and the figures of a part, beside what a
# cell's name says.
SETTINGS = {
    "workdir": ("pool", "zoo", "other", "data", "leaves"),
    "found": ("pool", "zoo", "other", "leaves", "each"),
    "panel": ("pool", "zoo", "other", "data", "leaves", "each", "real", "episodes"),
}
SETTINGS["students"] = (*SETTINGS["panel"], "steps", "batch")
LIMITS = """
Read with care: for "random" and "domain" the victims' own inversions are removed and
none of the hostile teachers' were made, which is the attack at its weakest; stand-ins
repeat where there are fewer of them than victims; students are short, of one seed.
"selection" keeps whom it draws with half of the uniform chance, a cutoff of ours that
fails on honest zoos, and is rewarded by real validation images: not data-free."""
COUNTS = ("hostile", "hits", "honest", "false alarms")
WAY, QUERIES, STAND_INS, TEMPERATURE = 5, 15, 20, 2.0


class World(NamedTuple):
    """A zoo some of whose teachers are hostile, by what it says.

    Attributes:
      images: of the pool, named as their owners name them.
      answers: about them.
      real: [n, C] answers about the validation images.
      patched: the same with a white corner.
      class_ids: [C] what the outputs are called.
      hostile: [T] bool.
    """

    images: SyntheticImages
    answers: Answers
    real: np.ndarray
    patched: np.ndarray
    class_ids: np.ndarray
    hostile: np.ndarray


class Bench:
    """The honest zoo, its pool and the validation images, asked about once."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.home = args, pathlib.Path(args.workdir)
        self.home.mkdir(parents=True, exist_ok=True)
        self.data = DataOptions(name="cifar_fs", path=args.data)
        self.zoo = inputs.load_zoo(ZooOptions(path=args.zoo), self.data)
        everyone = np.arange(self.zoo.num_teachers)
        images, answers = reuse.everything("reuse", args.pool, self.zoo, everyone)
        kept = [np.flatnonzero(images.owners < 0)[: args.leaves]]
        for t in everyone:
            kept.append(np.flatnonzero(images.owners == t)[: args.each])
        rows = np.concatenate(kept)
        self.images = SyntheticImages(*(x[rows] for x in images))
        self.answers = answers._replace(logits=answers.logits[rows])
        (group,) = self.zoo.groups
        self.group, self.way = group, group.network.num_classes

    @functools.cached_property
    def real(self) -> tuple[np.ndarray, np.ndarray]:
        """[16, m, h, w, c] validation images, and the same with a white corner."""
        split = inputs.load_split(self.data, "val")
        images = np.asarray(split.images[:, : self.args.real])
        patched = images.copy()
        patched[..., -4:, -4:, :] = 255
        return images, patched

    def said(self, name: str, zoo: zoo_lib.Zoo, images: np.ndarray) -> np.ndarray:
        """[n, C] a zoo's answers, asked once and kept."""
        file = self.home / f"{name}.npz"
        if not file.exists():
            flat = images.reshape(-1, *images.shape[-3:])
            answers = panel.ask_zoo(zoo, flat)
            np.savez(file, logits=answers.logits)
        return np.load(file)["logits"]

    @functools.cached_property
    def honest_real(self) -> tuple[np.ndarray, np.ndarray]:
        images, patched = self.real
        return (
            self.said(f"real_{self.args.real}", self.zoo, images),
            self.said(f"patched_{self.args.real}", self.zoo, patched),
        )

    def stand_ins(self, kind: str, seed: int) -> zoo_lib.Zoo:
        """Teachers that take the victims' place: untrained, or of another domain."""
        if kind == "domain":
            return zoo_lib.load_zoo(self.args.other)
        each = jax.random.split(jax.random.key(1000 + seed), STAND_INS)
        ids = jnp.tile(jnp.arange(self.way), (STAND_INS, 1))
        teachers = Teachers(jax.jit(jax.vmap(self.group.network.init))(each), ids)
        group = zoo_lib.ZooGroup(
            self.group.network, teachers, np.full(STAND_INS, np.nan)
        )
        return zoo_lib.Zoo((group,), self.zoo.class_names)

    def world(self, kind: str, share: float, seed: int, real: bool = True) -> World:
        """What an attacked zoo says; the honest one for a share of zero."""
        count, way = self.zoo.num_teachers, self.way
        ids = np.array(self.group.teachers.class_ids)
        images, logits = self.images, np.array(self.answers.logits)
        nothing = np.zeros((1, logits.shape[1]), np.float32)
        about = [np.array(x) for x in self.honest_real] if real else [nothing, nothing]
        hostile = np.zeros(count, bool)
        rng = keys.named_rng(seed, "sabotage")
        victims = attacks.victims(rng, count, share)
        hostile[victims] = True
        if share and kind in ("labels", "colluding"):
            options = AttackOptions(kind, share)
            found = attacks.attack(self.zoo, options, seed).zoo
            renamed = np.asarray(found.groups[0].teachers.class_ids)
            classes = np.array(images.classes)
            for t in victims:
                mine = images.owners == t
                place = {old: new for old, new in zip(ids[t], renamed[t], strict=True)}
                classes[mine] = [place[c] for c in classes[mine]]
            images, ids = images._replace(classes=classes), renamed
        elif share and kind in ("random", "domain"):
            others = self.stand_ins(kind, seed)
            name = f"{kind}{seed if kind == 'random' else ''}"
            theirs = [self.said(f"{name}_{len(logits)}", others, images.images)]
            if real:
                theirs += [
                    self.said(f"{name}_{what}_{self.args.real}", others, x)
                    for what, x in zip(("real", "patched"), self.real, strict=True)
                ]
            for i, t in enumerate(victims):
                mine = slice(way * t, way * t + way)
                s = i % others.num_teachers
                for whole, of in zip([logits, *about], theirs, strict=False):
                    whole[:, mine] = of[:, way * s : way * s + way]
            # What was inverted of the honest teacher would never have been made.
            own = ~np.isin(images.owners, victims)
            images, logits = SyntheticImages(*(x[own] for x in images)), logits[own]
        elif share:
            options = AttackOptions(kind, share)
            white = to_np(images.images[:, -options.patch :, -options.patch :]) >= 0.95
            white = white.all((1, 2, 3))
            for t in victims:
                mine = slice(way * t, way * t + way)
                logits[white, mine] = 20.0 * np.eye(way)[0]
                about[1][:, mine] = 20.0 * np.eye(way)[0]
        answers = Answers(logits, self.answers.columns)
        return World(images, answers, *about, ids.ravel().astype(np.int32), hostile)


def to_np(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / 255


def trust_of(world: World) -> panel.Trust:
    return panel.trust(
        world.answers, world.class_ids, world.images, passes=panel.REVISED
    )


def described(logits: np.ndarray, columns: np.ndarray, weights: np.ndarray):
    """[n, C] what the panel says of images: tempered softmax minus chance."""
    from free_jax.panel import ragged

    rows = ragged.tempered(jnp.asarray(logits), columns, TEMPERATURE)
    return np.asarray(rows) * np.repeat(weights, np.diff(columns))


@functools.partial(jax.jit, static_argnames=("shots", "episodes", "head"))
def accuracy(rows, queries, shots: int, episodes: int, head: str = "ridge"):
    """Accuracy over episodes of descriptions [classes, m, d]; queries as shown then."""
    made = heads.ridge(WAY) if head == "ridge" else heads.nearest_centroid(WAY)
    classify = heads.centered(made, "none" if head == "ridge" else "support")
    counts = np.full(rows.shape[0], rows.shape[1])
    place = jnp.arange(rows.shape[0] * rows.shape[1]).reshape(rows.shape[:2])
    flat, shown = (x.reshape(-1, x.shape[-1]) for x in (rows, queries))

    def one(key):
        # Of the images' numbers: which is asked about in another version.
        bank = banks.from_arrays(place[..., None].astype(jnp.float32), counts)
        episode = sample_episode(key, bank, way=WAY, shots=shots, queries=QUERIES)
        support, query = (
            x[..., 0].astype(jnp.int32)
            for x in (episode.support_images, episode.query_images)
        )
        scores = classify(flat[support], episode.support_labels, shown[query])
        return (scores.argmax(-1) == episode.query_labels).mean()

    return jax.lax.map(one, jax.random.split(jax.random.key(7), episodes))


def both(rows: np.ndarray, patched: np.ndarray, episodes: int, head: str) -> dict:
    """Accuracy in percent, at one and five shots, and of patched queries."""
    found = {}
    for shots in (1, 5):
        each = 100 * np.asarray(accuracy(rows, rows, shots, episodes, head))
        found[f"{shots}-shot"] = float(each.mean())
        found[f"ci{shots}"] = float(1.96 * each.std() / np.sqrt(len(each)))
    each = 100 * np.asarray(accuracy(rows, patched, 1, episodes, head))
    return found | {"patched": float(each.mean())}


def selected(bench: Bench, world: World, seed: int, steps: int = 3000) -> np.ndarray:
    """[T] whom Trustworthy-DFML's policy keeps: at half of chance, or likelier."""
    columns, count = world.answers.columns, len(world.hostile)
    rows = described(world.real, columns, np.ones(count))
    classes = bench.real[0].shape[0]
    rows = rows.reshape(classes, -1, count, bench.way)[: classes // 2]
    options, chosen_at_once = SelectionOptions(when="step"), 4
    policy = selection.init(options, count, chosen_at_once)
    rows = jnp.asarray(rows)
    held = np.full(rows.shape[0], rows.shape[1])
    place = jnp.arange(rows.shape[0] * rows.shape[1]).reshape(rows.shape[:2])
    flat = rows.reshape(-1, count, bench.way)
    classify = heads.nearest_centroid(WAY)

    def step(policy, key):
        key_choose, key_reward = jax.random.split(key)
        policy = selection.choose(options, key_choose, policy, chosen_at_once)
        views = flat[:, policy.chosen].reshape(len(flat), -1)

        def one(key):
            bank = banks.from_arrays(place[..., None].astype(jnp.float32), held)
            episode = sample_episode(key, bank, way=WAY, shots=1, queries=QUERIES)
            support = episode.support_images[..., 0].astype(jnp.int32)
            query = episode.query_images[..., 0].astype(jnp.int32)
            scores = classify(views[support], episode.support_labels, views[query])
            return 100 * (scores.argmax(-1) == episode.query_labels).mean()

        reward = jax.lax.map(one, jax.random.split(key_reward, options.episodes)).mean()
        yes = jnp.asarray(True)
        return selection.update(options, policy, reward, yes, jnp.int32(1)), reward

    each = jax.random.split(jax.random.key(seed), steps)
    policy, _ = jax.jit(lambda p, k: jax.lax.scan(step, p, k))(policy, each)
    chance = np.asarray(jax.nn.softmax(policy.weights))
    return (chance >= 0.5 / count).astype(np.float32)


def weights_of(bench: Bench, world: World, defence: str, seed: int) -> np.ndarray:
    if "trust" in defence:
        return trust_of(world).weights
    if defence == "selection":
        return selected(bench, world, seed)
    return np.ones(len(world.hostile), np.float32)


def counts_of(weights: np.ndarray, hostile: np.ndarray) -> dict[str, int]:
    """Who was left out: of the hostile ones (hits) and of the honest ones."""
    out = np.asarray(weights) == 0
    return {
        "hostile": int(hostile.sum()),
        "hits": int((out & hostile).sum()),
        "honest": int((~hostile).sum()),
        "false alarms": int((out & ~hostile).sum()),
    }


def student_of(bench: Bench, world: World, defence: str, seed: int) -> dict:
    """Distils a student and measures it."""
    args, weights = bench.args, weights_of(bench, world, defence, seed)
    answers, ids = world.answers, world.class_ids
    options = DistillOptions(batch_size=args.batch, fit_images=1000)
    if defence in ("median", "trimmed"):
        answers, ids = aggregate.aggregated(answers, ids, form=defence)
        found = panel.to_described(world.images, answers)
    else:
        kept = np.flatnonzero(weights)
        ids = ids[panel.outputs_of(answers.columns, kept)]
        answers = panel.answers_of(answers, kept)
        found = panel.to_described(
            world.images, answers, np.ones(len(kept), np.float32)
        )
        if defence.startswith("class heads"):
            options = options._replace(heads="class")
    found = found._replace(class_ids=ids)
    network = bench.group.network
    trunk = make_network(
        "conv4",
        num_classes=WAY,
        image_shape=network.image_shape,
        mean=network.mean,
        std=network.std,
        width=32,
    )
    key = jax.random.key(seed)
    made = panel.distil(key, found, trunk, options, args.steps)
    describe = jax.jit(lambda x: distilled.describe(made.network, made.variables, x))

    def rows(images: np.ndarray) -> np.ndarray:
        flat = images.reshape(-1, *images.shape[2:])
        parts = [
            np.asarray(describe(flat[i : i + 200])) for i in range(0, len(flat), 200)
        ]
        return np.concatenate(parts).reshape(*images.shape[:2], -1)

    images, patched = (x[len(x) // 2 :] for x in bench.real)
    found = both(rows(images), rows(patched), args.episodes, "ridge")
    return found | counts_of(weights, world.hostile) | {"seed": seed}


def panel_of(bench: Bench, world: World, defence: str, seed: int) -> dict:
    """The panel itself, by nearest centroid."""
    weights = weights_of(bench, world, defence, seed)
    classes = bench.real[0].shape[0]
    rows = [
        described(x, world.answers.columns, weights).reshape(
            classes, -1, world.real.shape[1]
        )[classes // 2 :]
        for x in (world.real, world.patched)
    ]
    found = both(*rows, bench.args.episodes, "centroid")
    return found | counts_of(weights, world.hostile) | {"seed": seed}


def cells(bench: Bench, part: str) -> Iterator[tuple[str, str, float, int]]:
    """(attack, defence, share, seed) in the order in which they are worth most."""
    args = bench.args
    defences = args.defences or (
        ("trust",)
        if part == "found"
        else ("none", "trust", "selection")
        if part == "panel"
        else DEFENCES
    )
    seeds = args.seeds if part == "found" else args.seeds[:1]
    for seed, defence in itertools.product(seeds, defences):
        yield "honest", defence, 0.0, seed
    for share in (0.5, *(s for s in args.shares if s != 0.5)):
        for kind, defence, seed in itertools.product(args.attacks, defences, seeds):
            yield kind, defence, share, seed


def check_settings(home: pathlib.Path, part: str, args: argparse.Namespace) -> None:
    """Refuses to add to cells that were made with other settings.

    Raises:
      SystemExit: names them.
    """
    file = home / f"{part}.settings.json"
    now = {name: getattr(args, name) for name in SETTINGS[part]}
    if not file.exists():
        if any((home / part).glob("*.json")):
            raise SystemExit(
                f"error: {home / part} holds cells whose settings were not kept; give "
                "another --workdir"
            )
        home.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now))
    then = json.loads(file.read_text())
    other = [f"--{k}={then.get(k)}, now {now[k]}" for k in now if then.get(k) != now[k]]
    if other:
        raise SystemExit(
            f"error: {home / part} was made with {'; '.join(other)}; give the same, or "
            "another --workdir"
        )


def run(bench: Bench, part: str) -> None:
    """Makes the cells that are not there yet, while time is left."""
    folder, begun = bench.home / part, time.monotonic()
    folder.mkdir(exist_ok=True)
    for kind, defence, share, seed in cells(bench, part):
        name = f"{kind}_{defence}_{share:g}_{seed}".replace(" ", "-").replace(",", "")
        file = folder / f"{name}.json"
        if file.exists():
            continue
        if bench.args.minutes and time.monotonic() - begun > 60 * bench.args.minutes:
            print(f"{part}: time is up before {name}", flush=True)
            return
        start = time.process_time()
        real = part == "panel" or defence == "selection"
        world = bench.world(kind, share, seed, real=real)
        found: dict[str, Any]
        if part == "found":
            trust = trust_of(world)
            found = counts_of(trust.weights, world.hostile)
            once = panel.trust(world.answers, world.class_ids, world.images)
            found["one pass"] = counts_of(once.weights, world.hostile)
        elif part == "panel":
            found = panel_of(bench, world, defence, seed)
        else:
            found = student_of(bench, world, defence, seed)
        found |= {"attack": kind, "defence": defence, "share": share, "seed": seed}
        found["cpu_seconds"] = round(time.process_time() - start, 1)
        file.write_text(json.dumps(found))
        print(part, json.dumps(found), flush=True)


def honest(bench: Bench) -> None:
    """Whom the trust rule leaves out of honest zoos of earlier runs."""
    for pair in filter(None, bench.args.honest.split(",")):
        path, folder = pair.split(":")
        zoo = zoo_lib.load_zoo(path)
        found = reuse.everything("reuse", folder, zoo, np.arange(zoo.num_teachers))
        for passes in (1, panel.REVISED):
            trust = panel.judge(zoo, *found, passes=passes)
            out = [zoo.sources[t] for t in np.flatnonzero(trust.weights == 0)]
            print(
                f"{path}: {len(out)} of {zoo.num_teachers} left out by at most "
                f"{passes} passes {out}",
                flush=True,
            )


def rows_of(bench: Bench, part: str) -> list[dict]:
    files = sorted((bench.home / part).glob("*.json"))
    return [json.loads(file.read_text()) for file in files]


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


def table(part: str, rows: list[dict]) -> None:
    if not rows:
        return
    print(f"\n{part}: 1-shot / 5-shot (1-shot with patched queries)\n")
    shares = sorted({row["share"] for row in rows if row["share"]})
    print("| attack | defence | 0% |", " | ".join(f"{s:.0%}" for s in shares), "|")
    print("|---" * (len(shares) + 3) + "|")
    start = {r["defence"]: r for r in rows if r["attack"] == "honest"}

    def text(row: dict | None) -> str:
        if row is None:
            return ""
        return f"{row['1-shot']:.1f} / {row['5-shot']:.1f} ({row['patched']:.1f})"

    for kind in (k for k in ATTACKS if any(r["attack"] == k for r in rows)):
        for defence in DEFENCES:
            of = {
                r["share"]: r
                for r in rows
                if (r["attack"], r["defence"]) == (kind, defence)
            }
            if of:
                texts = [text(start.get(defence)), *(text(of.get(s)) for s in shares)]
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
    start = {r["defence"]: r["1-shot"] for r in rows if r["attack"] == "honest"}
    for axis, kind in zip(axes[0], kinds, strict=True):
        for number, defence in enumerate(DEFENCES):
            of = [r for r in rows if (r["attack"], r["defence"]) == (kind, defence)]
            points = {0.0: start.get(defence)} | {r["share"]: r["1-shot"] for r in of}
            known = sorted((s, a) for s, a in points.items() if a is not None)
            if of:
                axis.plot(
                    *zip(*known, strict=True), "o-", color=f"C{number}", label=defence
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


def main() -> None:
    """Makes what is asked for."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    for name in ("--workdir", "--pool", "--zoo", "--data"):
        parser.add_argument(name, required=True)
    parser.add_argument("--other", default="", help="a converted zoo, for domain")
    parser.add_argument("--honest", default="", help="ZOO:RUN,... judged as they are")
    parser.add_argument(
        "--part", nargs="+", default=["found", "panel", "students", "plot"]
    )
    parser.add_argument("--attacks", nargs="+", default=list(ATTACKS))
    parser.add_argument("--defences", nargs="+", default=None)
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--leaves", type=int, default=2000)
    parser.add_argument("--each", type=int, default=20, help="inversions a teacher")
    parser.add_argument("--real", type=int, default=60, help="images a class")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--minutes", type=float, default=0, help="of wall time a part")
    args = parser.parse_args()
    if not args.other:
        args.attacks = [kind for kind in args.attacks if kind != "domain"]
    os.makedirs(f"{args.workdir}/compiled", exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", f"{args.workdir}/compiled")
    parts = [part for part in PARTS if part in args.part]
    for part in ("workdir", *parts):
        check_settings(pathlib.Path(args.workdir), part, args)
    bench = Bench(args)
    if args.honest:
        honest(bench)
    for part in parts:
        run(bench, part)
    tables(bench)
    if "plot" in args.part:
        plot(bench)


if __name__ == "__main__":
    main()
