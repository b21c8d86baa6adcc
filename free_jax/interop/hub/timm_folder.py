"""A folder of timm: config.json with an architecture, and weights."""

from collections.abc import Mapping
from typing import Any

from free_jax.interop.hub import facts as reading
from free_jax.interop.hub.consent import digest_of
from free_jax.interop.hub.conversion import by_description
from free_jax.interop.hub.facts import Fact
from free_jax.interop.hub.labels import meaningful, names_beside, names_in
from free_jax.interop.hub.reading import Reading, Setting
from free_jax.interop.hub.timm_config import config_facts
from free_jax.interop.tensors import read_tensors


def read_timm(setting: Setting) -> Reading:
    """Reads a folder of timm.

    Raises:
      InputError: files that are damaged or contradict.
    """
    candidate = setting.candidate
    config = candidate.config
    checkpoint = read_tensors(
        candidate.file, inside=setting.root, weights=setting.row.values.get("weights")
    )
    state = checkpoint.state

    def make():
        from free_jax.interop.frameworks import timm_module

        return timm_module(config, state, candidate.path)

    return Reading(
        "timm",
        f"{str(config['architecture'])[:80]} (timm)",
        _channels(config),
        config_facts(config, "config.json"),
        [
            _labels(config),
            names_beside(candidate.folder, candidate.file.stem, setting.root),
        ],
        by_description("timm", config, state, make, candidate.path, setting.options),
        digest=digest_of(state),
        sources={"network": "config.json:architecture"},
    )


def _channels(config: Mapping[str, Any]) -> int:
    args = config.get("model_args")
    if isinstance(args, Mapping) and args.get("in_chans") is not None:
        return reading.side(args["in_chans"], "config.json:model_args.in_chans")
    inner = config.get("pretrained_cfg")
    size = inner.get("input_size") if isinstance(inner, Mapping) else None
    if isinstance(size, list) and len(size) == 3:
        return reading.side(size[0], "config.json:pretrained_cfg.input_size")
    return 3


def _labels(config: Mapping[str, Any]) -> Fact | None:
    """label_names, or what label_descriptions calls them where they are codes."""
    names = names_in(config.get("label_names"), "config.json:label_names")
    if not names:
        return None
    descriptions = config.get("label_descriptions")
    codes = meaningful(names) is None or all(
        isinstance(n, str) and n[:1] == "n" and n[1:].isdigit() for n in names
    )
    if codes and isinstance(descriptions, Mapping):
        described = [descriptions.get(name) for name in names]
        if all(isinstance(text, str) and text for text in described):
            return Fact(described, "config.json:label_descriptions")
    return Fact(names, "config.json:label_names")
