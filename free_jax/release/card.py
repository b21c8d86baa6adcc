"""The model card: what a model is, how to use it, what it was made from and measured.

Names and licences in it are strangers' text: they are shown, and steer nothing.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from free_jax.interop.hub.names import legible

_MOST_TEACHERS, _MOST_CLASSES = 200, 6
_STEPS = {
    "normalise": "Normalise",
    "describe": "Describe",
    "whiten": "Whiten",
    "features": "Features",
    "classify": "Classify",
    "adapt": "Adapt",
}


def model_card(name: str, config: Mapping[str, Any]) -> str:
    """The README.md of an exported model, in Markdown.

    Args:
      name: of its folder.
      config: see `folder.config_of`, with ``files``.
    """
    notes = config["notes"]
    sections = [
        _front_matter(),
        f"# {shown(name)}",
        _what(config),
        "## Use",
        _use(config),
        "## What it computes",
        _formula(config),
        "## Made from",
        _made_from(notes.get("teachers") or []),
        "## Measured",
        _measured(notes.get("measured") or {}),
        "## How it was made",
        _how(notes),
        "## Limits",
        "- Figures above are of the data named there; nothing was measured elsewhere.\n"
        "- It sees what its teachers learned to see; what they confuse or were never "
        "shown, it does not tell apart either.\n"
        "- Whether a model made from others may be passed on, and how, is for their "
        "licences to say.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def shown(text: Any) -> str:
    r"""Text of strangers in Markdown: one line, no mark-up, no tags, no table's bars.

    >>> shown("<b>a|b</b> [x](y)")
    '&lt;b&gt;a\\|b&lt;/b&gt; \\[x\\](y)'
    """
    plain = legible(text)
    plain = re.sub(r"([\\`*_\[\]|#!~$])", r"\\\1", plain)
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _front_matter() -> str:
    return (
        "---\nlibrary_name: free_jax\npipeline_tag: image-feature-extraction\n"
        "tags:\n- few-shot\n- data-free\n- jax\n---"
    )


def _what(config: Mapping[str, Any]) -> str:
    into, out = config["input"], config["output"]
    number = len(config["heads"]) or len(config["notes"].get("teachers") or [])
    sources = f", made from {number} classifiers without their data" if number else ""
    what = {
        "descriptions": "its description: classes are told apart by the mean "
        "description of a few labelled images each",
        "features": "features, for a model that is adapted to a few labelled images "
        "of each class",
    }[out["kind"]]
    return (
        f"A few-shot image classifier{sources}. From {into['channels']} images of "
        f"{into['height']} x {into['width']} pixels to {out['size']} numbers an image, "
        f"{what}."
    )


def _use(config: Mapping[str, Any]) -> str:
    files, described = config["files"], config["output"]["kind"] == "descriptions"
    parts = []
    if "model.safetensors" in files:
        lines = [
            "import free_jax as fj",
            "",
            'network, variables, notes = fj.load_model("FOLDER")',
        ]
        if described:
            lines += [
                "embed = lambda images: fj.distilled.embed(network, variables, images)",
                'classify = fj.heads.centered(fj.heads.nearest_centroid(way), "none")',
                "scores = classify(embed(support), labels, embed(queries))",
            ]
        else:
            norm = "running" if config["batch_norm"] == "running" else "batch"
            lines += [
                f'features = network.apply(variables, images, norm="{norm}", '
                "features=True)"
            ]
        parts.append(
            "In JAX, images [n, h, w, c] as uint8 or floats in [0, 1]:\n\n"
            + _block("\n".join(lines), "python")
        )
    if "model.onnx" in files:
        given = files["model.onnx"].get("images")
        values = "np.uint8" if given == "uint8" else "np.float32, in [0, 1]"
        lines = [
            "import onnxruntime",
            "",
            'session = onnxruntime.InferenceSession("model.onnx")',
            f'(rows,) = session.run(None, {{"images": images}})  # {values}',
        ]
        parts.append(
            "In onnxruntime alone; any number of images, rows as in JAX:\n\n"
            + _block("\n".join(lines), "python")
        )
    return "\n\n".join(parts)


def _formula(config: Mapping[str, Any]) -> str:
    network = config["network"]
    lines = [
        f"- **{_STEPS[step]}**: {shown_formula(text)}"
        for step, text in config["formula"].items()
    ]
    lines += [f"- mean {list(network['mean'])}, std {list(network['std'])}"]
    if config["temperature"] is not None:
        lines += [f"- temperature {config['temperature']:.6g}"]
    return "\n".join(lines)


def shown_formula(text: str) -> str:
    """Our own formulas, whose symbols are not mark-up."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", text)


def _made_from(teachers: Sequence[Mapping[str, Any]]) -> str:
    if not teachers:
        return "Not recorded with the model."
    columns = ["source", "network", "classes", "trust", "licence"]
    # What no file says is of a few, or of none.
    guesses = any(teacher.get("guessed") for teacher in teachers)
    columns += ["guessed"] * guesses
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for teacher in teachers[:_MOST_TEACHERS]:
        trust = teacher.get("trust")
        cells = [
            shown(teacher.get("source") or "unknown"),
            shown(teacher.get("network") or "unknown"),
            _classes(teacher),
            "" if trust is None else f"{trust:.3g}",
            shown(_licence(teacher)),
        ]
        cells += [shown(teacher.get("guessed") or "")] * guesses
        rows.append(f"| {' | '.join(cells)} |")
    more = len(teachers) - _MOST_TEACHERS
    if more > 0:
        rows.append(f"\nAnd {more} more, in config.json.")
    found = Counter(map(_licence, teachers))
    counts = ", ".join(f"{shown(name)} ({n})" for name, n in found.most_common(20))
    if guesses:
        rows.append(
            "\nA wrong guess makes the model worse; what is known is better said in "
            "teachers.yaml beside the models."
        )
    rows.append(f"\nLicences as the teachers' own files state them: {counts}.")
    return "\n".join(rows)


def _licence(teacher: Mapping[str, Any]) -> str:
    """As found; files that were not looked at are told from files that say nothing."""
    licence = teacher.get("licence")
    return "not recorded" if licence is None else licence or "not stated"


def _classes(teacher: Mapping[str, Any]) -> str:
    names = teacher.get("classes") or []
    number = teacher.get("num_classes") or len(names)
    if not names:
        return str(number)
    some = ", ".join(map(shown, names[:_MOST_CLASSES]))
    return f"{number}: {some}{', ...' if len(names) > _MOST_CLASSES else ''}"


def _measured(measured: Mapping[str, Any]) -> str:
    parts = []
    if measured.get("table"):
        lines = [legible(line, 400) for line in measured["table"].splitlines()]
        parts.append(_block("\n".join(lines).strip(), "text"))
    if not parts:
        return "Nothing was measured, or nothing was kept with the model."
    return "\n\n".join(parts)


def _how(notes: Mapping[str, Any]) -> str:
    result = (notes.get("measured") or {}).get("result") or {}
    said = {
        "method": notes.get("algorithm"),
        "steps": notes.get("steps"),
        "seed": notes.get("seed"),
        "config": result.get("config_hash"),
        "images recovered": result.get("images_recovered"),
        "seconds": result.get("seconds"),
        "backend": result.get("backend"),
        **(result.get("versions") or {}),
    }
    lines = [f"- {shown(k)}: {shown(v)}" for k, v in said.items() if v is not None]
    if notes.get("learner"):
        lines.append(f"- adaptation: {shown(json.dumps(notes['learner']))}")
    if notes.get("guessed"):  # Models made before each teacher said what was.
        lines.append(
            "- what the teachers' own files do not say (sizes, normalisation, class "
            "names) was guessed (zoo.guess); a wrong guess makes the model worse"
        )
    return "\n".join(lines) or "Not recorded with the model."


def _block(text: str, kind: str) -> str:
    """A code block that its text cannot end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{kind}\n{text}\n{fence}"
