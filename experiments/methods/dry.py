"""What ``--check`` tells: what was looked at, what was found, what was not tried."""

import importlib.util
from collections.abc import Sequence

from experiments import inputs
from experiments.inputs.contents import fingerprint
from experiments.inputs.further import Further
from experiments.inputs.options import DataOptions, ZooOptions
from experiments.methods.options import Settings
from experiments.stages.options import Recovery
from free_jax import nouns
from free_jax.zoo import Zoo

# What was looked at -> what was found.
Findings = list[tuple[str, str]]


def images(data: DataOptions, splits: Sequence[str]) -> Findings:
    """The real images that a run is measured on, listed."""
    if not splits:
        return [("images", "none: the model is not measured on real images")]
    return [(f"images, {split}", of_split(data, split)) for split in splits]


def of_split(data: DataOptions, split: str) -> str:
    """How much a split holds."""
    found = inputs.list_split(data, split)
    return (
        f"{nouns.count(len(found.class_names), 'class', 'classes')}, "
        f"{nouns.count(int(found.counts.sum()), 'image')} in "
        f"{data.path or data.name}"
    )


def further(folders: Sequence[Further]) -> Findings:
    """The further folders that the finished model is measured on, listed."""
    found = []
    for each in folders:
        held = sum(map(len, each.files.values()))
        told = nouns.count(len(each.files), "class", "classes")
        told += f", {nouns.count(held, 'image')} in {each.path}"
        told += f"; {each.told}" if each.told else ""
        found.append((f"images, {each.name}", told))
    return found


def teachers(options: ZooOptions, zoo: Zoo | None) -> Findings:
    """The teachers that were opened, or will be trained."""
    if zoo is None:
        return [("teachers", "none are needed")]
    named = ", ".join(dict.fromkeys(network.name for network in zoo.networks))
    ways = sorted({network.num_classes for network in zoo.networks})
    sizes = sorted({network.image_shape[0] for network in zoo.networks})
    told = (
        f"{zoo.num_teachers} of {nouns.count(len(zoo.groups), 'network')} ({named}), "
        f"{'/'.join(map(str, ways))}-way, {'/'.join(map(str, sizes))} pixels"
    )
    if options.pretrain.num_teachers:
        return [("teachers", f"{told}: trained in this run, before anything else")]
    if options.apis:
        return [("teachers", f"{told}: their metadata is as {options.apis} says")]
    return [("teachers", f"{told}, content {fingerprint(zoo)}")]


def earlier(config: Settings) -> Findings:
    """The earlier run whose images are used."""
    section = getattr(config, "recover", None)
    if not isinstance(section, Recovery) or not (section.reuse or section.against):
        return []
    key = "reuse" if section.reuse else "against"
    folder = section.reuse or section.against
    return [("earlier run", f"recover.{key}={folder}: enough, of these teachers")]


def packages() -> Findings:
    """What is left out because a package for it is missing."""
    missing = importlib.util.find_spec("matplotlib") is None
    return [("packages", "matplotlib is missing: nothing is drawn")] * missing


def not_tried(options: ZooOptions) -> str:
    """What only the run itself tells."""
    told = ["reading the images", "room on the disk", "memory"]
    if options.apis:
        told.insert(0, "sending endpoints an image (they may charge for it)")
    if options.pretrain.num_teachers:
        told.insert(0, "training the teachers")
    return ", ".join(told)
