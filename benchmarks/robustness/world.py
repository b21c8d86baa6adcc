"""An honest zoo, what it says, and what it would say with hostile teachers in it."""

import argparse
import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.drawing import drawn_of
from experiments import inputs
from experiments.inputs.options import DataOptions, ZooOptions
from experiments.stages import reuse
from free_jax import keys, panel
from free_jax import zoo as zoo_lib
from free_jax.types import Answers, SyntheticImages, Teachers
from free_jax.zoo import attacks
from free_jax.zoo.attacks import AttackOptions

ATTACKS = ("labels", "colluding", "random", "domain", "backdoor")
STAND_INS = 20


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
        if answers.teachers is not None:
            raise SystemExit(
                f"error: --pool={args.pool}: some teachers were asked about each "
                "image; give a run that asked all about all (panel.asked_per_image=0)"
            )
        self.images = SyntheticImages(*(x[rows] for x in images))
        self.answers = answers._replace(logits=answers.logits[rows])
        (group,) = self.zoo.groups
        self.group, self.way = group, group.network.num_classes

    @functools.cached_property
    def real(self) -> tuple[np.ndarray, np.ndarray]:
        """[16, m, h, w, c] validation images, and the same with a white corner."""
        split = inputs.load_split(self.data, "val")
        images = np.asarray(drawn_of(split, self.args.real, self.args.draw).images)
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
            white = images.images[:, -options.patch :, -options.patch :] >= 0.95 * 255
            white = white.all((1, 2, 3))
            for t in victims:
                mine = slice(way * t, way * t + way)
                logits[white, mine] = 20.0 * np.eye(way)[0]
                about[1][:, mine] = 20.0 * np.eye(way)[0]
        answers = Answers(logits, self.answers.columns)
        return World(images, answers, *about, ids.ravel().astype(np.int32), hostile)
