"""Programs of usual architectures, so that their weights are read without torch.

Some ship with the package (``shipped/``, made by ``python -m
free_jax.interop.ship_programs``); those that were converted here are kept in a folder
of the user, ``$FREE_JAX_CACHE/programs``, by default ``~/.cache/free_jax/programs``.

A program is found by what decides the computation: the fields of the configuration that
do, the keys and shapes of the weights (the head's class axis left out), and the image
size where the program depends on it.
"""

import base64
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import re
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from free_jax.errors import InputError
from free_jax.interop.programs import Program
from free_jax.models import program_text

Kind = Literal["huggingface", "timm", "torchvision"]
Shapes = Mapping[str, tuple[int, ...]]
SHIPPED = pathlib.Path(__file__).parent / "shipped"
_MAX_ENTRY_BYTES = 2_000_000

# Names of classes, versions, what training did, what else a model can return.
_DECIDES_NOTHING = re.compile(
    r"""(id2label|label2id|num_labels|problem_type|architectures|finetuning_task
    |transformers_version|(torch_)?dtype|_name_or_path|_commit_hash|license
    |initializer_range|initializer_factor|.*dropout.*|drop_path_rate|.*drop_rate
    |output_attentions|output_hidden_states|return_dict|use_return_dict|out_features|out_indices|stage_names
    |encoder_stride|semantic_loss_ignore_index|layer_scale_init_value
    |pooler_.*|use_cache|gradient_checkpointing|torchscript|pruned_heads|tie_.*
    |is_encoder_decoder|is_decoder|cross_attention_.*|add_cross_attention
    |chunk_size_feed_forward|use_auxiliary_head|auxiliary_.*|use_mask_token
    |.*_token_id|attn_implementation|_attn_implementation|auto_map|num_stages
    |num_layers|image_size)""",
    re.VERBOSE,
)
# In some files of a network and not in others.
_SPARE = re.compile(
    r"(num_batches_tracked|position_ids|relative_position_index|attn_mask)$"
    r"|(^|\.)(pooler|mask_token|decoder|lm_head)(\.|$)|^(aux1|aux2|AuxLogits)\."
)


class Entry(NamedTuple):
    """A program and what it is found by.

    Attributes:
      kind: of the files.
      config: the fields that decide the computation.
      optional: those of them that a file may leave out: they are the default.
      image_size: (h, w) where the program is for these only; None: any.
      program: without weights.
      spare: keys of weights that it does not use: tied ones, and parts without effect.
    """

    kind: str
    config: dict[str, Any]
    optional: tuple[str, ...]
    image_size: tuple[int, int] | None
    program: Program
    spare: tuple[str, ...] = ()


def find(
    kind: Kind,
    config: Mapping[str, Any],
    shapes: Shapes,
    *,
    image_size: tuple[int, int] | None = None,
    cache_dir: Any = None,
) -> Program | None:
    """The program of these weights, shipped or kept; None where there is none.

    Args:
      kind: of the files.
      config: content of ``config.json``; {} for torchvision.
      shapes: key -> shape of the weights, wrappers' prefixes taken off.
      image_size: (h, w) of the images, if known.
      cache_dir: of kept programs; None takes the user's.
    """
    wanted = deciding(kind, config)
    for entry in [*_shipped(), *_kept(cache_dir, kind, wanted, shapes)]:
        if (
            entry.kind == kind
            and _same_config(entry, wanted)
            and entry.image_size in (None, image_size)
            and _same_weights(entry, shapes)
        ):
            return entry.program
    return None


def keep(
    kind: Kind,
    config: Mapping[str, Any],
    shapes: Shapes,
    program: Program,
    *,
    image_size: tuple[int, int] | None = None,
    cache_dir: Any = None,
) -> None:
    """Keeps a program for `find`; does nothing where the folder cannot be written.

    Args:
      kind: of the files.
      config: content of ``config.json``; {} for torchvision.
      shapes: key -> shape of the weights that it was made with.
      program: all its weights have keys; others are not kept.
      image_size: (h, w) that it was made for.
      cache_dir: None takes the user's.
    """
    used = set(program.leaves.values())
    spare = tuple(k for k in shapes if k not in used and not _SPARE.search(k))
    wanted = deciding(kind, config)
    entry = Entry(kind, wanted, (), image_size, program, spare)
    if not _same_weights(entry, shapes):
        return
    folder = _folder(cache_dir)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        # Whole or not at all: others may read and write here.
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
            file.write(encode(entry))
        size = "x".join(map(str, image_size or ()))
        name = f"{_digest(kind, wanted, shapes)}-{size}.json"
        os.replace(file.name, folder / name)


def deciding(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that decide the computation."""
    if kind == "torchvision":
        return {}
    if kind == "timm":
        args = dict(config.get("model_args") or {})
        pool = config.get("global_pool", args.get("global_pool"))
        fields = {
            key: value
            for key, value in args.items()
            # These are seen in the weights.
            if key not in ("num_classes", "in_chans", "global_pool")
            and not key.endswith("drop_rate")
        }
        return {
            "architecture": config.get("architecture"),
            **({"global_pool": pool} if pool is not None else {}),
            **fields,
        }
    fields = {
        key: value
        for key, value in config.items()
        if not _DECIDES_NOTHING.fullmatch(str(key)) and value is not None
    }
    names = config.get("architectures")
    return {**fields, "architectures": names[:1] if isinstance(names, list) else names}


def encode(entry: Entry) -> str:
    """An entry as JSON, its list of keys compressed."""
    program = entry.program
    keys = [program.leaves, entry.spare]
    packed = json.dumps(keys, separators=(",", ":")).encode()
    plain = {
        "kind": entry.kind,
        "config": entry.config,
        "optional": sorted(entry.optional),
        "image_size": entry.image_size,
        "text": program.text,
        "keys": base64.b85encode(zlib.compress(packed, 9)).decode(),
        "num_classes": program.num_classes,
        "gives": sorted(program.gives),
        "output": program.output,
        "kernel_transposed": program.kernel_transposed,
    }
    return json.dumps(plain, sort_keys=True, indent=1) + "\n"


def decode(text: str) -> Entry:
    """Reads what `encode` wrote.

    Raises:
      ValueError, KeyError, TypeError, zlib.error: it is something else.
    """
    plain = json.loads(text)
    packed = base64.b85decode(plain["keys"])
    keys = zlib.decompressobj().decompress(packed, _MAX_ENTRY_BYTES)
    leaves, spare = json.loads(keys)
    program = Program(
        text=str(plain["text"]),
        leaves={str(k): str(v) for k, v in leaves.items()},
        num_classes=int(plain["num_classes"]),
        gives=frozenset(plain["gives"]),
        output=str(plain["output"]),
        kernel_transposed=bool(plain["kernel_transposed"]),
    )
    size = plain["image_size"]
    return Entry(
        kind=str(plain["kind"]),
        config=dict(plain["config"]),
        optional=tuple(plain["optional"]),
        image_size=None if size is None else (int(size[0]), int(size[1])),
        program=program,
        spare=tuple(map(str, spare)),
    )


@functools.cache
def _shipped() -> tuple[Entry, ...]:
    return tuple(decode(file.read_text()) for file in sorted(SHIPPED.glob("*.json")))


def _folder(cache_dir: Any) -> pathlib.Path:
    if cache_dir is None:
        base = os.environ.get("FREE_JAX_CACHE") or "~/.cache/free_jax"
        cache_dir = pathlib.Path(base).expanduser() / "programs"
    return pathlib.Path(cache_dir)


def _kept(
    cache_dir: Any, kind: str, wanted: Mapping[str, Any], shapes: Shapes
) -> Iterator[Entry]:
    """Kept programs of this digest; what cannot be read is as good as not there."""
    folder = _folder(cache_dir)
    for file in sorted(folder.glob(f"{_digest(kind, wanted, shapes)}-*.json")):
        with contextlib.suppress(
            *(OSError, ValueError, KeyError, TypeError, AttributeError),
            *(RecursionError, InputError, zlib.error),
        ):
            if file.stat().st_size <= _MAX_ENTRY_BYTES:
                entry = decode(file.read_text())
                program_text.read(entry.program.text)
                yield entry


def _digest(kind: str, wanted: Mapping[str, Any], shapes: Shapes) -> str:
    """Of the fields and of the keys; the shapes are compared by `_same_weights`."""
    keys = sorted(key for key in shapes if not _SPARE.search(key))
    text = json.dumps([kind, wanted, keys], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _same_config(entry: Entry, wanted: Mapping[str, Any]) -> bool:
    plain = json.loads(json.dumps(dict(wanted), default=str))
    if any(entry.config.get(key, plain) != value for key, value in plain.items()):
        return False
    missing = entry.config.keys() - plain.keys()
    return missing <= set(entry.optional)


def _same_weights(entry: Entry, shapes: Shapes) -> bool:
    """Whether these are the program's weights, and nothing else."""
    try:
        expected = _shapes_in_file(entry.program)
    except InputError:
        return False
    if "" in expected:
        return False
    for key, shape in expected.items():
        found = shapes.get(key)
        if found is None or len(found) != len(shape):
            return False
        if any(a not in (-1, b) for a, b in zip(shape, found, strict=True)):
            return False
    known = {*expected, *entry.spare}
    return all(key in known or _SPARE.search(key) for key in shapes)


def _shapes_in_file(program: Program) -> dict[str, tuple[int, ...]]:
    """Key -> shape; -1 for the number of classes."""
    instructions = program_text.read(program.text)
    expected = {}
    for path, key in program.leaves.items():
        group, name, *rest = path.split("/")
        if group == "batch_stats":
            shape: tuple[int, ...] = (instructions.norms[name],)
        elif name != "head":
            shape = tuple(instructions.shapes[name])
        elif rest == ["bias"]:
            shape = (-1,)
        else:
            shape = (-1, instructions.head or -1)
            shape = shape if program.kernel_transposed else shape[::-1]
        expected[key] = shape
    return expected
