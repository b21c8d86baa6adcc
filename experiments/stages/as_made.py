"""How an earlier run made the images that this one takes, beside what a config says."""

import contextlib
import json
from typing import Any

from etils import epath

from experiments.harness import files, sections
from experiments.harness.same_run import CONFIG_FILE
from experiments.inputs import former_keys
from experiments.stages import reuse
from free_jax import panel


def made_otherwise(folder: str, wanted: panel.RecoverOptions, size: int) -> str:
    """In what an earlier run's images are not those that a config says; "" if in none.

    Args:
      folder: the earlier run's working directory.
      wanted: what the config says of images that it would recover.
      size: of the images that are there.
    """
    told = []
    if wanted.images_per_class:
        now, made = _told_of(reuse.recipe(wanted, 0), wanted), _told_by(folder)
        told = [
            f"{key}={made[key]} (here {value})"
            for key, value in now.items()
            if made.get(key) not in (None, value)
        ]
    if wanted.image_size not in (0, size):
        told.append(f"{size} pixels (here {wanted.image_size})")
    if not told:
        return ""
    more = f", ... ({len(told)} differences)" if len(told) > 5 else ""
    return f"images of {folder} are taken as they are: {', '.join(told[:5])}{more}"


def _told_of(made: dict[str, Any], wanted: panel.RecoverOptions) -> dict[str, Any]:
    """What of a recipe decides how inversions look, by keys of ``config.recover``."""
    flat = files.flatten(sections.plain(wanted))
    generated = made["source"] == "generator"
    chosen = ("inversion.", "meta_training.") if generated else ("inversion.",)
    ours = {key: flat[key] for key in flat if key.startswith(chosen)}
    if not generated:
        ours = {k: v for k, v in ours.items() if ".generator." not in k}
    # As a recipe has them: a generator's latents start from noise too.
    return ours | {"inversion.source": made["source"], "inversion.init": made["init"]}


def _told_by(folder: str) -> dict[str, Any]:
    """What an earlier run's files say of that: its config, and its recipe before it."""
    told, signed = {}, reuse.signature_of(folder).get("recipe") or {}
    with contextlib.suppress(OSError, ValueError):
        config = (epath.Path(folder) / CONFIG_FILE).read_text()
        flat = former_keys.NAMES.upgraded(files.flatten(json.loads(config)))
        start = "recover."
        told = {k[len(start) :]: v for k, v in flat.items() if k.startswith(start)}
    for key, value in signed.items():
        told[f"inversion.{key}" if key in ("source", "init") else key] = value
    return told


def inversion_steps(folder: str) -> int | None:
    """Steps that an earlier run inverted an image by; None where it does not say."""
    return (reuse.signature_of(folder).get("recipe") or {}).get("inversion.num_steps")
