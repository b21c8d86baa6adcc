"""A weight file by itself: bare or wrapped, of a network that its keys tell."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from free_jax.errors import InputError
from free_jax.interop.hub import extras, own_code
from free_jax.interop.hub.consent import allowed, digest_of
from free_jax.interop.hub.conversion import by_description, by_module, converted
from free_jax.interop.hub.facts import Fact, Facts
from free_jax.interop.hub.graphs import read_torchscript
from free_jax.interop.hub.labels import names_beside, names_in_extra
from free_jax.interop.hub.reading import Converted, Reading, Setting
from free_jax.interop.hub.recognise import what_it_is
from free_jax.interop.hub.released import STATED, is_released, read_released
from free_jax.interop.hub.timm_config import train_facts
from free_jax.interop.tensors import Checkpoint, read_tensors
from free_jax.interop.tensors.archive import kind_of_archive
from free_jax.interop.tensors.opening import open_within, sniff
from free_jax.interop.tensors.torch_pickle import scan_file, whole_object

_LIGHTNING = ("pytorch-lightning_version", "lightning_version")


def kind_of_file(setting: Setting) -> str:
    """The kind of a weight file by its content: for lines about files left out.

    Returns:
      "module", "torchscript", "torch_export" or "checkpoint".
    """
    try:
        found = open_within(setting.candidate.file, setting.root)
        kind = sniff(found)
        if kind == "zip":
            kind = kind_of_archive(found)
            if kind in ("torchscript", "torch_export"):
                return kind
        if kind == "pickle" and whole_object(scan_file(found)):
            return "module"
    except InputError:
        pass
    return "checkpoint"


def read_weights(setting: Setting) -> Reading:
    """Reads a weight file.

    Raises:
      InputError: it is damaged, no classifier, or of a network that nothing tells.
    """
    trusted = allowed(setting.consent, setting.names)
    if trusted and setting.candidate.file.suffix != ".json":
        kind = kind_of_file(setting)
        if kind == "torchscript":
            return read_torchscript(setting)
        if kind == "module":
            return _whole_module(setting)
    checkpoint = read_tensors(
        setting.candidate.file,
        inside=setting.root,
        weights=setting.row.values.get("weights"),
    )
    stated = setting.row.values.get("family", "")
    code = setting.row.values.get("code")
    if code is None and (is_released(checkpoint.state) or stated in STATED):
        return read_released(setting, checkpoint)
    if code is not None:
        return _own_code(setting, checkpoint)
    args = checkpoint.extra.get("args")
    if stated.startswith("timm/") or _is_timm(args):
        return _timm(setting, checkpoint, args if isinstance(args, dict) else {})
    try:
        return _torchvision(setting, checkpoint)
    except InputError as error:
        found = what_it_is(checkpoint.state)
        if found:
            raise InputError(f"{setting.name}: {found}") from error
        named = extras.network_name(checkpoint.extra)
        if not stated and named is not None and _timm_has(named[0]):
            return _timm(setting, checkpoint, {"model": named[0]}, named_by=named[1])
        beside = own_code.code_beside(setting)
        if beside is not None and trusted:
            return _own_code(setting, checkpoint)
        if beside is None:
            raise
        if "unknown network" not in str(error) and "pip install" not in str(error):
            raise
        known = (
            "that is not known"
            if "unknown" in str(error)
            else ('that only "free_jax[convert]" might know')
        )
        raise InputError(
            f"{setting.name}: weights of a network {known}; if you trust "
            f"{beside[0].name} beside it, name {setting.candidate.path} in trust_code"
        ) from error


def _is_timm(args: Any) -> bool:
    """Whether arguments are those of timm's train.py."""
    if not isinstance(args, Mapping) or not isinstance(args.get("model"), str):
        return False
    return bool({"model_kwargs", "model_ema", "crop_pct", "img_size"} & set(args))


def _timm_has(name: str) -> bool:
    """Whether timm is there and has a network of that name."""
    if importlib.util.find_spec("timm") is None:
        return False
    from free_jax.interop.frameworks.timm import is_known

    return is_known(name)


def _common(setting: Setting, checkpoint: Checkpoint, facts: Facts) -> dict[str, Any]:
    """What is the same for all networks."""
    name = setting.name
    sources = {"network": f"{name}:keys", "weights": f"{name}:{checkpoint.wrapper}"}
    sources["weights"] = sources["weights"].rstrip(":")
    return dict(
        channels=_channels(checkpoint.state),
        facts=facts,
        labels=[
            names_in_extra(checkpoint.extra, name),
            names_beside(
                setting.candidate.folder, setting.candidate.file.stem, setting.root
            ),
        ],
        accuracy=extras.accuracy(checkpoint.extra),
        digest=digest_of(checkpoint.state),
        sources=sources,
    )


def _channels(state: Mapping[str, np.ndarray]) -> int:
    """Of the images: of the first kernel of four axes."""
    kernels = [v for v in state.values() if np.ndim(v) == 4]
    return int(kernels[0].shape[1]) if kernels else 3


def _timm(
    setting: Setting,
    checkpoint: Checkpoint,
    args: dict[str, Any],
    named_by: str = "args.model",
) -> Reading:
    """A checkpoint of timm's train.py, or a network of timm that something names."""
    stated = setting.row.values.get("family", "")
    name = setting.name
    architecture = stated.removeprefix("timm/") or args["model"]
    model_args = dict(args.get("model_kwargs") or {})
    for key, given in (("num_classes", "num_classes"), ("in_chans", "in_chans"),
                       ("global_pool", "gp")):  # fmt: skip
        if args.get(given) is not None:
            model_args.setdefault(key, args[given])
    common = _common(setting, checkpoint, train_facts(args, name))
    if "num_classes" not in model_args:
        model_args["num_classes"] = own_code.outputs(checkpoint.state)
    if common["channels"] != 3:
        model_args.setdefault("in_chans", common["channels"])
    config = {"architecture": architecture, "model_args": model_args}

    def make():
        from free_jax.interop.frameworks import timm_module

        return timm_module(config, checkpoint.state, name)

    common["sources"]["network"] = (
        setting.row.source if stated else f"{name}:{named_by}"
    )
    return Reading(
        "timm",
        f"{architecture[:80]} (timm)",
        convert=by_description(
            "timm", config, checkpoint.state, make, name, setting.options
        ),
        **common,
    )


def _torchvision(setting: Setting, checkpoint: Checkpoint) -> Reading:
    """A network of torchvision, recognised by its keys and shapes."""
    name, state = setting.name, checkpoint.state
    stated = setting.row.values.get("family")
    hint, _ = extras.network_name(checkpoint.extra) or (None, "")
    module, said = _recognised(setting, state, stated)
    facts = dict(extras.extra_facts(checkpoint.extra, name))
    if said.get("image_size") and "size" not in facts:
        side = int(said["image_size"])
        facts["size"] = Fact((side, side), f"{name}:shapes")
    lightning = any(key in checkpoint.extra for key in _LIGHTNING)
    common = _common(setting, checkpoint, facts)
    if stated:
        common["sources"]["network"] = setting.row.source
    guesses = {
        key: str(value)
        for key, value in said.items()
        if "guessed" in str(value) and not stated
    }
    # Pixels and layers of a first layer for small images go together.
    small = "stem" in guesses or (hint or "").startswith(("vgg", "cifar"))
    if "size" in facts or "size" in setting.row.values:
        guesses.pop("stem", None)
    for key in guesses:
        common["sources"][key] = "guessed"
    words = ", ".join([str(said.get("family")), *map(str, guesses.values())])

    def make():
        return module

    return Reading(
        "lightning" if lightning else "torchvision",
        f"{words} (torchvision)",
        convert=by_description("torchvision", {}, state, make, name, setting.options),
        guessed_size=32 if small or _fits_small(said, state) else None,
        **common,
    )


def _recognised(setting: Setting, state: Any, stated: Any) -> tuple[Any, dict]:
    """The module and what was recognised; without torchvision, of programs at hand.

    Raises:
      InputError: an unknown network, or torchvision is needed.
    """
    from free_jax.interop import program_library
    from free_jax.interop.frameworks import torchvision_module

    try:
        return torchvision_module(state, setting.name, stated)
    except InputError as error:
        if "pip install" not in str(error):
            raise
        shapes = {key: np.shape(value) for key, value in state.items()}
        where = setting.options.cache_dir
        where = os.devnull if where == "" else where
        if program_library.find("torchvision", {}, shapes, cache_dir=where) is None:
            raise
    said = {"family": stated or "a network at hand"}
    first = state.get("conv1.weight")
    if first is not None and first.shape[-1] == 3:
        said["stem"] = "3x3, no pooling (guessed from a 3x3 kernel)"
    return None, said


def _fits_small(said: Mapping[str, Any], state: Mapping[str, np.ndarray]) -> bool:
    """Whether a VGG's classifier reads one pixel a channel: five halvings of 32."""
    first = state.get("classifier.0.weight", state.get("classifier.weight"))
    kernels = [v for k, v in state.items() if np.ndim(v) == 4]
    vgg = str(said.get("family", "")).startswith("vgg")
    return bool(
        vgg and first is not None and kernels and first.shape[1] == kernels[-1].shape[0]
    )


def _own_code(setting: Setting, checkpoint: Checkpoint) -> Reading:
    """A network whose code lies beside it."""
    beside = own_code.code_beside(setting)
    if beside is None:
        raise InputError(f"{setting.name}: there is no code beside it")
    state = checkpoint.state
    full = {checkpoint.prefix + key: value for key, value in state.items()}
    states: list[Any] = [state, full] if checkpoint.prefix else [state]
    module, words, digests = own_code.module_of_code(setting, *beside, states)
    facts = extras.extra_facts(checkpoint.extra, setting.name)
    common = _common(setting, checkpoint, facts)
    common["sources"]["network"] = (
        setting.row.source if "code" in setting.row.values else beside[0].name
    )
    return Reading(
        "checkpoint",
        words,
        convert=_by_module(module, setting.candidate.path),
        consent=digests,
        **common,
    )


def _whole_module(setting: Setting) -> Reading:
    """A module that was pickled whole, with consent."""
    file = open_within(setting.candidate.file, setting.root)
    module, digests = own_code.whole_module(setting, file)
    state = {k: v.numpy() for k, v in module.state_dict().items()}
    checkpoint = Checkpoint(state)
    return Reading(
        "module",
        f"{type(module).__name__} (whole module)",
        convert=_by_module(module, setting.candidate.path),
        consent=digests,
        **_common(setting, checkpoint, {}),
    )


def _by_module(module: Any, source: str) -> Any:
    def convert(image_shape_chw: tuple[int, int, int]) -> Converted:
        return converted(*by_module(module, image_shape_chw, source), module)

    return convert
