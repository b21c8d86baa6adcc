"""A ``.pt2`` file of ``torch.export.save`` -> `RawGraph`, without torch.

The file is a zip archive: ``models/model.json`` holds the graph (schema:
torch/_export/serde/schema.py, major version 8) and ``data/`` the weights as raw bytes.
Nothing in it is unpickled or run; what would need that is refused.
"""

import json
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from free_jax.errors import InputError
from free_jax.interop.normal_form import Images, Size, Traced, normal_form
from free_jax.interop.raw_graph import Node, RawGraph, Ref, refs

SCHEMA_MAJOR = 8
# Generous: a ViT-L of 24 blocks has 6 MB of graph and 1.2 GB of weights.
MAX_GRAPH_BYTES = 100_000_000
MAX_WEIGHT_BYTES = 8_000_000_000
MAX_MEMBERS = 100_000

# ScalarType of the schema -> torch's name, and how its bytes are read.
_TYPES = {
    1: ("torch.uint8", "u1"),
    2: ("torch.int8", "i1"),
    3: ("torch.int16", "<i2"),
    4: ("torch.int32", "<i4"),
    5: ("torch.int64", "<i8"),
    6: ("torch.float16", "<f2"),
    7: ("torch.float32", "<f4"),
    8: ("torch.float64", "<f8"),
    12: ("torch.bool", "?"),
    13: ("torch.bfloat16", "bfloat16"),
}
_PLACEMENT = {
    *("device", "layout", "pin_memory", "memory_format", "non_blocking", "generator"),
    "requires_grad",
}


def read_pt2(path: Any) -> RawGraph:
    """Reads a classifier that was saved by ``torch.export.save``.

    Args:
      path: a local file.

    Raises:
      InputError: no such archive, of another schema version, with pickled or compiled
        parts, with operators that PyTorch itself does not have, or no classifier of
        one image input.
    """
    source = str(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, source)
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise _damaged(source, error) from error
    except InputError:
        raise
    except (
        *(KeyError, ValueError, TypeError, IndexError, AttributeError, StopIteration),
        *(OverflowError, RecursionError, EOFError, MemoryError),
    ) as error:
        raise _damaged(source, error) from error


def _damaged(source: str, error: BaseException) -> InputError:
    reason = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
    return InputError(
        f"{source}: cannot be read as an archive of torch.export.save "
        f"({type(error).__name__}: {reason}); export the module again"
    )


def _read(archive: zipfile.ZipFile, source: str) -> RawGraph:
    root = _root(archive, source)
    model = json.loads(_member(archive, f"{root}/models/model.json", MAX_GRAPH_BYTES))
    version = model["schema_version"]["major"]
    if version != SCHEMA_MAJOR:
        raise InputError(
            f"{source}: written in schema version {version} of torch.export, "
            f"{SCHEMA_MAJOR} is read; export it again with torch 2.6 to 2.14"
        )
    module = model["graph_module"]
    tensors, persistent, images = _inputs(module["signature"], source)
    graph = module["graph"]
    shapes, dtypes, sizes = _values(graph, images, source)
    nodes: list[Node] = []
    for node in graph["nodes"]:
        nodes += _nodes(node, source)
    used = {
        name for node in nodes for name in refs([*node.args, *node.kwargs.values()])
    }
    weights = {
        name: _array(archive, root, entry, source)
        for name, entry in _stored(archive, root, tensors, used, source).items()
    }
    output = _output(graph, module["signature"], shapes, source)
    raw = RawGraph(images, tuple(nodes), output, weights, persistent)
    raw = normal_form(Traced(raw, shapes, dtypes, sizes), source)
    number = shapes[images][0]
    return raw._replace(fixed_batch=number if isinstance(number, int) else None)


# ----------------------------------------------------------------------- the archive


def _root(archive: zipfile.ZipFile, source: str) -> str:
    """The folder that everything is in; refuses other kinds of archive."""
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise InputError(f"{source}: {len(members)} members; at most {MAX_MEMBERS}")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            raise InputError(
                f"{source}: {member.filename[:80]!r} is compressed; torch.export.save "
                "does not compress, export the module again"
            )
    names = [member.filename for member in members]
    if any("/data/aotinductor/" in name for name in names):
        raise InputError(
            f"{source}: holds compiled code (AOTInductor), which is never run; save "
            "with torch.export.save(torch.export.export(module, ..), ..) instead"
        )
    found = [name for name in names if name.endswith("/models/model.json")]
    if len(found) != 1:
        old = "serialized_exported_program.json" in " ".join(names)
        what = "of torch before 2.6" if old else "of another kind"
        raise InputError(
            f"{source}: an archive {what}, without models/model.json; export the "
            "module again with torch 2.6 to 2.14 and torch.export.save"
        )
    root = found[0].removesuffix("/models/model.json")
    order = f"{root}/byteorder"
    if order in names and _member(archive, order, 100) != b"little":
        raise InputError(f"{source}: written on a big-endian machine; export it anew")
    return root


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """A member's bytes; its name is looked up in the archive, never on the disk."""
    size = archive.getinfo(name).file_size
    if size > most:
        raise InputError(f"{archive.filename}: {name} has {size} bytes, at most {most}")
    return archive.read(name)


def _stored(
    archive: zipfile.ZipFile,
    root: str,
    tensors: Mapping[str, str],
    used: set[str],
    source: str,
) -> dict[str, tuple[str, Any]]:
    """Name of a value -> (its file, its record in the archive's list)."""
    records = {}
    members = set(archive.namelist())
    for kind in ("weights", "constants"):
        name = f"{root}/data/{kind}/model_{kind}_config.json"
        if name not in members:
            continue
        config = json.loads(_member(archive, name, MAX_GRAPH_BYTES))["config"]
        for key, record in config.items():
            file = f"{root}/data/{kind}/{record['path_name']}"
            records.setdefault(key, (file, record))
    found = {name: key for name, key in tensors.items() if name in used}
    missing = [key for key in found.values() if key not in records]
    if missing:
        raise InputError(f"{source}: has no weights {missing[0]!r}; export it again")
    files = {records[key][0] for key in found.values()}
    if sum(archive.getinfo(file).file_size for file in files) > MAX_WEIGHT_BYTES:
        raise InputError(f"{source}: its weights are over {MAX_WEIGHT_BYTES} bytes")
    return {name: records[key] for name, key in found.items()}


def _array(archive: zipfile.ZipFile, root: str, entry: Any, source: str) -> np.ndarray:
    file, record = entry
    if record.get("use_pickle"):
        raise InputError(
            f"{source}: {file.removeprefix(root)} is pickled, which is never read; "
            "export the module with plain tensors"
        )
    meta = record["tensor_meta"]
    name, code = _type(meta["dtype"], source)
    if code == "bfloat16":
        import ml_dtypes

        code = ml_dtypes.bfloat16
    data = np.frombuffer(_member(archive, file, MAX_WEIGHT_BYTES), code)
    sizes = [int(size["as_int"]) for size in meta["sizes"]]
    strides = [int(stride["as_int"]) for stride in meta["strides"]]
    start = int(meta["storage_offset"]["as_int"])
    if len(sizes) != len(strides) or start < 0 or min([0, *sizes, *strides]) < 0:
        raise ValueError(f"sizes {sizes} and strides {strides} of {name} weights")
    if 0 in sizes:
        return np.zeros(sizes, data.dtype)
    last = start + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    # A stride of 0 would make a giant of a few bytes.
    if last >= len(data) or np.prod(sizes, dtype=object) > len(data):
        raise ValueError(f"{file.removeprefix(root)} is shorter than its shape {sizes}")
    steps = [stride * data.itemsize for stride in strides]
    view = np.lib.stride_tricks.as_strided(data[start:], sizes, steps, writeable=False)
    return np.array(view)


def _type(number: int, source: str) -> tuple[str, str]:
    if number not in _TYPES:
        raise InputError(
            f"{source}: holds tensors of a type that is not read (ScalarType "
            f"{number}); export the module in float32"
        )
    return _TYPES[number]


# -------------------------------------------------------------------------- the graph


def _inputs(signature: Any, source: str) -> tuple[dict[str, str], dict[str, str], str]:
    """Value -> key of its tensor; those with a key in the state_dict; the images."""
    tensors, persistent, images = {}, {}, []
    for spec in signature["input_specs"]:
        ((kind, record),) = spec.items()
        if kind in ("parameter", "buffer"):
            name, key = record["arg"]["name"], record[f"{kind}_name"]
            tensors[name] = key
            if record.get("persistent", True):
                persistent[name] = key
        elif kind == "tensor_constant":
            tensors[record["arg"]["name"]] = record["tensor_constant_name"]
        elif kind == "user_input":
            # A default argument of None is an input too.
            images += [arg["name"] for arg in [record["arg"].get("as_tensor")] if arg]
        elif kind != "constant_input":
            raise InputError(
                f"{source}: takes a {kind.replace('_', ' ')}, which is not read; a "
                "network of tensors is needed"
            )
    if len(images) != 1:
        raise InputError(
            f"{source}: takes {len(images)} inputs; a classifier takes one, images"
        )
    return tensors, persistent, images[0]


def _values(graph: Any, images: str, source: str):
    """Shapes and types of tensors, and the sizes that are symbols."""
    values = graph["tensor_values"]
    if images not in values or len(values[images]["sizes"]) != 4:
        raise InputError(f"{source}: its input has not the four axes of images")
    symbol = _expression(values[images]["sizes"][0])
    shapes = {
        name: tuple(_size(size, symbol) for size in meta["sizes"])
        for name, meta in values.items()
    }
    dtypes = {
        name: _TYPES.get(meta["dtype"], (str(meta["dtype"]),))[0]
        for name, meta in values.items()
    }
    sizes = {
        name: _size(size, symbol) for name, size in graph["sym_int_values"].items()
    }
    return shapes, dtypes, sizes


def _expression(size: Any) -> str | None:
    return size["as_expr"]["expr_str"] if "as_expr" in size else None


_SYMBOL = r"Symbol\('(\w+)'[^()]*\)"
_MULTIPLE = re.compile(rf"Mul\(Integer\((\d+)\), {_SYMBOL}\)")


def _size(size: Any, symbol: str | None) -> Size:
    """A number, a multiple of the number of images, or None: something else."""
    expression = _expression(size)
    if expression is None:
        return int(size["as_int"])
    if expression == symbol:
        return Images(1)
    found = _MULTIPLE.fullmatch(expression)
    images = re.fullmatch(_SYMBOL, symbol or "")
    same = found is not None and images is not None and found[2] == images[1]
    return Images(int(found[1])) if found is not None and same else None


def _output(graph: Any, signature: Any, shapes: Any, source: str) -> str:
    """The first result of shape [images, classes]."""
    names = []
    for spec in signature["output_specs"]:
        ((kind, record),) = spec.items()
        if kind == "user_output" and "as_tensor" in record["arg"]:
            names.append(record["arg"]["as_tensor"]["name"])
    for name in names:
        if len(shapes[name]) == 2:
            return name
    found = ", ".join(_shown(shapes[name]) for name in names)
    raise InputError(
        f"{source}: no classifier, its results are of shape {found or 'none'}; one of "
        "shape [images, classes] is needed"
    )


def _shown(shape: tuple[Size, ...]) -> str:
    sizes = [str(size) if isinstance(size, int) else "images" for size in shape]
    return f"[{', '.join(sizes)}]"


def _nodes(node: Any, source: str) -> list[Node]:
    op = _operator(node["target"], source)
    args, kwargs = [], {}
    for given in node["inputs"]:
        if given["name"] in _PLACEMENT:
            continue
        value = _argument(given["arg"], op, source)
        if given.get("kind") == 2:  # a keyword; older files do not say
            kwargs[given["name"]] = value
        else:
            args.append(value)
    outputs = node["outputs"]
    names = [name for output in outputs for name in _results(output)]
    if len(outputs) == 1 and "as_tensors" not in outputs[0]:
        return [Node(op, tuple(args), kwargs, names[0] or f"%{op}")]
    whole = "%" + str(names[0])
    parts = [
        Node("getitem", (Ref(whole), i), {}, name)
        for i, name in enumerate(names)
        if name is not None
    ]
    return [Node(op, tuple(args), kwargs, whole), *parts]


def _operator(target: str, source: str) -> str:
    if target.startswith("torch.ops.aten."):
        return target.removeprefix("torch.ops.")
    module, _, name = target.rpartition(".")
    if module in ("_operator", "operator", "math", "torch", "builtins"):
        return name
    if "higher_order" in target:
        raise InputError(
            f"{source}: holds a graph within the graph ({target}); save "
            "exported.run_decompositions({}) instead of exported"
        )
    raise InputError(
        f"{source}: the operator {target[:100]} is not one of PyTorch's own; a network "
        "without custom operators is needed"
    )


def _results(output: Any) -> list[str | None]:
    ((kind, value),) = output.items()
    if kind == "as_none":
        return [None]
    if kind.startswith("as_sym"):
        return [value["as_name"]]
    if kind == "as_tensor":
        return [value["name"]]
    if kind == "as_tensors":
        return [part["name"] for part in value]
    if kind == "as_optional_tensor":
        return [value["as_tensor"]["name"] if "as_tensor" in value else None]
    raise ValueError(f"a result of kind {kind}")


def _argument(arg: Any, op: str, source: str) -> Any:
    ((kind, value),) = arg.items()
    if kind in ("as_none", "as_device", "as_layout", "as_memory_format"):
        return None
    if kind in ("as_int", "as_float", "as_bool", "as_string"):
        return value
    if kind in ("as_ints", "as_floats", "as_bools", "as_strings", "as_int_lists"):
        return list(value)
    if kind == "as_tensor":
        return Ref(value["name"])
    if kind == "as_tensors":
        return [Ref(part["name"]) for part in value]
    if kind == "as_optional_tensor":
        return Ref(value["as_tensor"]["name"]) if "as_tensor" in value else None
    if kind == "as_optional_tensors":
        return [_argument(part, op, source) for part in value]
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        ((how, number),) = value.items()
        return Ref(number) if how == "as_name" else number
    if kind in ("as_sym_ints", "as_sym_floats", "as_sym_bools"):
        return [
            Ref(number) if how == "as_name" else number
            for part in value
            for how, number in part.items()
        ]
    if kind == "as_scalar_type":
        return _type(value, source)[0]
    raise InputError(
        f"{source}: {op} takes an argument of kind {kind[:40]}, which is not read; a "
        "network of tensors and plain numbers is needed"
    )
