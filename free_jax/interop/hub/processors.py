"""What Hugging Face's ``preprocessor_config.json`` says, in the words of `facts`.

Files leave out what their processor's class has as default, and the classes differ:
that is why there is a table of them.  Of transformers 5; former files ("feature
extractors") have a number as size and say nothing of rescaling.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from free_jax.errors import InputError
from free_jax.interop.hub import facts as reading
from free_jax.interop.hub.facts import IMAGENET_MEAN, IMAGENET_STD, Fact, Facts

_HALF = (0.5, 0.5, 0.5)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class _Defaults(NamedTuple):
    """Of one processor class."""

    size: int  # of the shortest edge, or of the square
    edge: bool  # `size` is the shortest edge where a file has a number
    crop: int  # 0: none
    resample: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _of(size, edge, crop, resample, statistics) -> _Defaults:
    mean, std = {
        "half": (_HALF, _HALF),
        "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
        "clip": (_CLIP_MEAN, _CLIP_STD),
        "none": ((0.0,) * 3, (1.0,) * 3),
    }[statistics]
    return _Defaults(size, edge, crop, resample, mean, std)


_PROCESSORS = {
    "vit": _of(224, False, 0, "bilinear", "half"),
    "convnext": _of(384, True, 0, "bicubic", "half"),
    "beit": _of(224, False, 0, "bicubic", "half"),
    "deit": _of(256, False, 224, "bicubic", "half"),
    "mobilenetv1": _of(256, True, 224, "bilinear", "half"),
    "mobilenetv2": _of(256, True, 224, "bilinear", "half"),
    "mobilevit": _of(224, True, 256, "bicubic", "none"),
    "efficientnet": _of(346, False, 0, "bicubic", "half"),
    "levit": _of(224, True, 224, "bicubic", "imagenet"),
    "poolformer": _of(224, True, 224, "bicubic", "imagenet"),
    "perceiver": _of(224, False, 256, "bicubic", "imagenet"),
    "clip": _of(224, True, 224, "bicubic", "clip"),
    "bit": _of(224, True, 224, "bicubic", "clip"),
    "pvt": _of(224, False, 0, "bilinear", "imagenet"),
    "efficientformer": _of(224, False, 224, "bicubic", "imagenet"),
    "siglip": _of(224, False, 0, "bicubic", "half"),
    "dinov3vit": _of(224, False, 0, "bilinear", "imagenet"),
    "segformer": _of(512, False, 0, "bilinear", "imagenet"),
    "vithybrid": _of(224, True, 224, "bicubic", "clip"),
    "textnet": _of(640, True, 0, "bilinear", "imagenet"),
    "chineseclip": _of(224, True, 224, "bicubic", "clip"),
}
# The crop of processors whose file says only whether: by default it is off.
_NO_CROP = ("beit", "segformer")
_USUAL = "vit"
# Below this size a ConvNeXt is shown the centre of a larger image.
_CONVNEXT_WARPS = 384


def processor_facts(config: Any, name: str) -> Facts:
    """Facts of a ``preprocessor_config.json``.

    Args:
      config: its content.
      name: of the file, for sources and errors.

    Raises:
      InputError: a value that is none, or a step that is not done here.
    """
    if not isinstance(config, Mapping):
        raise InputError(f"{name}: is no table of settings; correct or remove it")
    if isinstance(config.get("image_processor"), Mapping):
        # A processor of text and images holds that of images.
        config = config["image_processor"]
    kind = _kind(config)
    known = _PROCESSORS.get(kind, _PROCESSORS[_USUAL])
    for step in ("do_color_quantize", "do_thumbnail"):
        if config.get(step):
            raise InputError(f"{name}:{step}: is not done here; use another teacher")
    found = {**_geometry(config, kind, known, name), **_colours(config, kind, name)}
    found.update(_statistics(config, kind, known, name))
    return found


def _kind(config: Mapping[str, Any]) -> str:
    """The family of a processor: "ViTFeatureExtractor" -> "vit"."""
    stated = config.get("image_processor_type") or config.get("feature_extractor_type")
    stated = str(stated or config.get("processor_class") or "")
    end = r"(ImageProcessor|FeatureExtractor|Processor)(Fast|Pil)?$"
    return re.sub(end, "", stated).lower()


def _said(config: Mapping[str, Any], key: str, default: Any, name: str) -> Fact:
    """A setting, or its class's default: the file names the class."""
    if config.get(key) is None:
        return Fact(default, f"{name}:{_source_of_class(config)}")
    return Fact(config[key], f"{name}:{key}")


def _source_of_class(config: Mapping[str, Any]) -> str:
    for key in ("image_processor_type", "feature_extractor_type"):
        if config.get(key):
            return key
    return "default"


def _geometry(
    config: Mapping[str, Any], kind: str, known: _Defaults, name: str
) -> dict[str, Fact]:
    """Size, resize and crop."""
    stated = _said(config, "size", known.size, name)
    edge, exact = _edge_or_size(stated, known.edge)
    if config.get("size") is None and not known.edge:
        edge, exact = None, (known.size,) * 2
    found = {
        "crop_rounds": Fact("down", name),
        "resample": _said(config, "resample", known.resample, name),
    }
    found["resample"] = found["resample"]._replace(
        value=reading.resample(*found["resample"])
    )
    resize: Any = edge if edge else exact
    cropped = _crop(config, kind, known, name)
    if kind == "convnext" and edge:
        percent = config.get("crop_pct")
        percent = 224 / 256 if percent is None else percent
        if edge < _CONVNEXT_WARPS:
            resize, cropped = int(edge / _share(percent, name)), Fact((edge, edge), "")
        else:
            resize = (edge, edge)
        exact = (edge, edge)
        cropped = cropped and cropped._replace(source=f"{name}:crop_pct")
    elif kind == "poolformer" and config.get("crop_pct", 0.9) is not None:
        first = edge or exact[0]
        resize = int(first / _share(config.get("crop_pct", 0.9), name))
    elif kind == "levit" and edge:
        resize = int(256 / 224 * edge)
    if not _said(config, "do_resize", True, name).value:
        resize = None
    found["resize_to"] = Fact(resize, stated.source)
    found["crop"] = Fact(cropped is not None, (cropped or stated).source)
    size = cropped.value if cropped else exact or (edge, edge)
    found["size"] = Fact(size, (cropped or stated).source)
    return found


def _edge_or_size(stated: Fact, edge: bool) -> tuple[int | None, Any]:
    """(shortest edge, None) or (None, (h, w))."""
    value, source = stated
    if isinstance(value, Mapping):
        if value.get("shortest_edge") is not None:
            return reading.side(value["shortest_edge"], source), None
        return None, reading.size(value, source)
    if isinstance(value, list | tuple) and len(value) == 2:
        # Old files have (width, height); squares, all of them.
        return None, reading.size(list(value)[::-1], source)
    side = reading.side(value, source)
    return (side, None) if edge else (None, (side, side))


def _crop(
    config: Mapping[str, Any], kind: str, known: _Defaults, name: str
) -> Fact | None:
    """The size that is cut out; None: nothing is."""
    usual = bool(known.crop) and kind not in _NO_CROP
    if not _said(config, "do_center_crop", usual, name).value:
        return None
    stated = _said(config, "crop_size", known.crop or known.size, name)
    return stated._replace(value=reading.size(*stated))


def _share(percent: Any, name: str) -> float:
    if not isinstance(percent, int | float) or not 0.1 <= percent <= 1:
        raise InputError(f"{name}:crop_pct: {percent!r:.40} must be from 0.1 to 1")
    return float(percent)


def _colours(config: Mapping[str, Any], kind: str, name: str) -> dict[str, Fact]:
    """Order of channels."""
    flips = _said(config, "do_flip_channel_order", kind == "mobilevit", name)
    if flips.value:
        return {"channels": flips._replace(value="BGR")}
    return {}


def _statistics(
    config: Mapping[str, Any], kind: str, known: _Defaults, name: str
) -> dict[str, Fact]:
    """Range, mean and std, for pixels in the range."""
    rescales = _said(config, "do_rescale", True, name)
    factor = _said(config, "rescale_factor", 1 / 255, name)
    if not isinstance(factor.value, int | float) or not 0 < factor.value <= 1:
        raise InputError(f"{factor.source}: {factor.value!r:.40} must be about 1/255")
    # 1/255 and 0.00392156862745098 are the same; 1/127.5 is not.
    scale = factor.value * 255 if rescales.value else 1.0
    scale = 1.0 if abs(scale - 1) < 1e-6 else scale
    offset = 1.0 if rescales.value and config.get("rescale_offset") else 0.0
    normalises = _said(config, "do_normalize", kind != "mobilevit", name)
    mean, std = (0.0,) * 3, (1.0,) * 3
    source = normalises.source
    if normalises.value:
        means = _said(config, "image_mean", known.mean, name)
        stds = _said(config, "image_std", known.std, name)
        mean = reading.numbers(_listed(means.value), means.source)
        std = reading.numbers(_listed(stds.value), stds.source)
        source = means.source
        if kind == "efficientnet" and config.get("include_top", True):
            # Divided by std a second time.
            std = tuple(s * s for s in std)
    # (scale x - offset - mean) / std of pixels x in the range.
    mean = tuple((m + offset) / scale for m in mean)
    std = tuple(s / scale for s in std)
    return {
        "range": rescales._replace(value=1 if rescales.value else 255),
        "mean": Fact(mean, source),
        "std": Fact(std, source.replace("image_mean", "image_std")),
    }


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
