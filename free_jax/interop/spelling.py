"""One spelling for what front-ends and libraries write in several ways.

`plain` takes a raw graph to one without in-place operators, identities and synonyms, so
that equal computations have equal texts.
"""

from collections.abc import Callable
from typing import Any

from free_jax.errors import InputError
from free_jax.interop.raw_graph import Node, RawGraph, Ref, refs

# Of no effect on values outside training.
_IDENTITIES = frozenset(
    f"aten.{name}.default"
    for name in (
        "alias",
        "alpha_dropout",
        "clone",
        "contiguous",
        "detach",
        "dropout",
        "feature_alpha_dropout",
        "feature_dropout",
        "lift_fresh",
        "lift_fresh_copy",
        "positive",
        "requires_grad",
    )
) | {"onnx.Identity", "onnx.Dropout"}

# Results that share memory with their first argument.
_VIEWS = frozenset(
    "aten." + name
    for name in (
        "as_strided.default",
        "chunk.default",
        "diagonal.default",
        "expand.default",
        "expand_as.default",
        "flatten.using_ints",
        "movedim.int",
        "movedim.intlist",
        "narrow.default",
        "permute.default",
        "reshape.default",
        "select.int",
        "slice.Tensor",
        "split.Tensor",
        "split_with_sizes.default",
        "squeeze.default",
        "squeeze.dim",
        "squeeze.dims",
        "t.default",
        "transpose.int",
        "unbind.int",
        "unflatten.int",
        "unfold.default",
        "unsqueeze.default",
        "view.default",
    )
) | {"getitem"}

_SYNONYMS = {
    "aten._adaptive_avg_pool2d.default": "aten.adaptive_avg_pool2d.default",
    "aten._adaptive_avg_pool3d.default": "aten.adaptive_avg_pool3d.default",
    "aten._log_softmax.default": "aten.log_softmax.int",
    "aten._safe_softmax.default": "aten.softmax.int",
    "aten._softmax.default": "aten.softmax.int",
    "aten._unsafe_view.default": "aten.reshape.default",
    "aten.clip.default": "aten.clamp.default",
    "aten.fill.Tensor": "aten.fill.Scalar",
    "aten.masked_fill.Tensor": "aten.masked_fill.Scalar",
    "aten.special_expit.default": "aten.sigmoid.default",
    "aten.special_log_softmax.int": "aten.log_softmax.int",
    "aten.special_softmax.int": "aten.softmax.int",
    "aten.swapaxes.default": "aten.transpose.int",
    "aten.true_divide.Tensor": "aten.div.Tensor",
    "aten.view.default": "aten.reshape.default",
    "aten.view_copy.default": "aten.reshape.default",
    "aten.where.Scalar": "aten.where.self",
    "aten.where.ScalarOther": "aten.where.self",
    "aten.where.ScalarSelf": "aten.where.self",
}

# Operators of a scalar and of an array are one.
_ANY_SCALAR = (
    *("add", "sub", "rsub", "mul", "div", "remainder", "fmod", "floor_divide"),
    *("eq", "ne", "lt", "le", "gt", "ge", "bitwise_and", "bitwise_or", "bitwise_xor"),
)
for _name in _ANY_SCALAR:
    _SYNONYMS[f"aten.{_name}.Scalar"] = f"aten.{_name}.Tensor"
    _SYNONYMS[f"aten.{_name}.default"] = f"aten.{_name}.Tensor"
_SYNONYMS["aten.div.Scalar_mode"] = "aten.div.Tensor_mode"

# Where, how fast and how stored: of no effect on values.
_UNSAID = frozenset(
    (
        *("device", "layout", "pin_memory", "memory_format", "non_blocking"),
        *("generator", "implicit", "momentum", "path", "copy"),
        *("cudnn_enabled", "cudnn_enable", "half_to_float", "requires_grad"),
    )
)

# Arguments from this place on say how, not what.
_MEANING = {
    "aten.embedding.default": 2,
    "aten.expand.default": 2,
    "aten.group_norm.default": 5,
    "aten.layer_norm.default": 5,
    "aten.log_softmax.int": 2,
    "aten.rrelu.default": 3,
    "aten.softmax.int": 2,
}
_CASTS = frozenset(
    "aten." + name
    for name in (
        "_to_copy.default",
        "to.device",
        "to.dtype",
        "to.dtype_layout",
        "to.prim_Device",
    )
)


def plain(graph: RawGraph) -> RawGraph:
    """The same computation without in-place operators, identities and synonyms.

    Raises:
      InputError: a value is changed in place while other views of it are still used.
    """
    last_use: dict[str, int] = {graph.output: len(graph.nodes)}
    for i, node in enumerate(graph.nodes):
        for name in refs([*node.args, *node.kwargs.values()]):
            last_use[name] = max(i, last_use.get(name, 0))
    aliases: dict[str, Any] = {}
    root: dict[str, str] = {}
    firsts: set[str] = set()  # normalisations that give a tuple, their first part used
    nodes: list[Node] = []

    def resolve(value: Any) -> Any:
        if isinstance(value, Ref):
            while isinstance(value, Ref) and value.name in aliases:
                value = aliases[value.name]
            return value
        if isinstance(value, list | tuple):
            return [resolve(part) for part in value]
        return value

    for i, node in enumerate(graph.nodes):
        args = tuple(resolve(arg) for arg in node.args)
        kwargs = {k: resolve(v) for k, v in node.kwargs.items() if k not in _UNSAID}
        op, in_place = _out_of_place(node.op)
        op = _SYNONYMS.get(op, op)
        target = args[0].name if in_place and isinstance(args[0], Ref) else None
        if target is not None:
            _check_views(target, i, root, last_use, node.op)
        if op == "getitem" and args[0].name in firsts and args[1] == 0:
            aliases[node.out] = args[0]
            continue
        if op in _VIEWS and isinstance(args[0], Ref):
            root[node.out] = root.get(args[0].name, args[0].name)
        made = _spelled(op, args, kwargs, node.out)
        if isinstance(made, Node):
            nodes.append(made)
            if node.op in _FIRST_OF_THREE:
                firsts.add(node.out)
            made = Ref(node.out)
        else:
            aliases[node.out] = made
        if target is not None and made != Ref(target):
            aliases[target] = made
    output = resolve(Ref(graph.output))
    return graph._replace(nodes=tuple(nodes), output=output.name)


_FIRST_OF_THREE = frozenset(
    (
        "aten._native_batch_norm_legit_no_training.default",
        "aten._native_batch_norm_legit.no_stats",
        "aten.native_batch_norm.default",
        "aten.native_group_norm.default",
        "aten.native_layer_norm.default",
    )
)


def _out_of_place(op: str) -> tuple[str, bool]:
    """The operator without its "_", and whether it had one: it was in place."""
    parts = op.split(".")
    if len(parts) == 3 and parts[0] == "aten" and parts[1].endswith("_"):
        if not parts[1].endswith("__"):
            return f"aten.{parts[1][:-1]}.{parts[2]}", True
    return op, False


def _check_views(
    target: str, place: int, root: dict[str, str], last_use: dict[str, int], op: str
) -> None:
    origin = root.get(target, target)
    shared = {name for name, base in root.items() if base == origin} | {origin}
    if any(last_use.get(name, -1) > place for name in shared - {target}):
        raise InputError(
            f"the graph changes a value in place ({op}) that it reads by another view "
            "later; export it again after `.run_decompositions({})`"
        )


def _spelled(
    op: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: str
) -> Node | Any:
    """The operation in its one spelling, or the value that it passes on."""
    if op in _IDENTITIES or (op.startswith("aten.dropout") and args):
        return args[0]
    if op in _CASTS:
        kinds = [
            a
            for a in (*args[1:], *kwargs.values())
            if isinstance(a, str) and a.startswith("torch.")
        ]
        if not kinds:
            return args[0]
        return Node("aten.to.dtype", (args[0], kinds[0]), {}, out)
    args = args[: _MEANING.get(op, len(args))]
    if op in _REWRITES:
        op, args, kwargs = _REWRITES[op](args, kwargs)
    return Node(op, args, kwargs, out)


Written = tuple[str, tuple[Any, ...], dict[str, Any]]


def _any_convolution(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written:
    x, w, b, stride, padding, dilation, transposed, output_padding, groups = args
    count = len(padding)
    if transposed:
        name = {1: "conv_transpose1d.default"}.get(
            count, f"conv_transpose{count}d.input"
        )
        rest = (stride, padding, output_padding, groups, dilation)
    else:
        name, rest = f"conv{count}d.default", (stride, padding, dilation, groups)
    return f"aten.{name}", (x, w, b, *rest), kwargs


def _any_batch_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written:
    x, w, b, mean, var, training, _, eps, *_ = args
    return "aten.batch_norm.default", (x, w, b, mean, var, bool(training), eps), kwargs


def _inner_batch_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written:
    x, w, b, mean, var, _, eps = args
    return "aten.batch_norm.default", (x, w, b, mean, var, False, eps), kwargs


def _no_stats(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written:
    x, w, b, _, _, eps = args
    return "aten.batch_norm.default", (x, w, b, None, None, True, eps), kwargs


def _instance_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written:
    x, w, b, mean, var, own, _, eps, *_ = args
    return "aten.instance_norm.default", (x, w, b, mean, var, own, eps), kwargs


def _layer_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written:
    return "aten.layer_norm.default", args, kwargs


def _group_norm(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written:
    x, w, b, _, _, _, groups, eps = args
    return "aten.group_norm.default", (x, groups, w, b, eps), kwargs


def _hardtanh(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written:
    if tuple(args[1:]) == (0, 6) and not kwargs:
        return "aten.relu6.default", args[:1], {}
    return "aten.hardtanh.default", args, kwargs


def _pooled(op: str) -> Callable[..., Written]:
    """Sizes of windows as pairs; a stride of its own even where it is the size."""

    def write(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written:
        def pair(size):
            return list(size) * 2 if len(size) == 1 else list(size)

        lists = [pair(a) if isinstance(a, list) and a else a for a in args[1:]]
        if len(lists) < 2 or lists[1] in ([], None):
            lists[1:2] = [lists[0]]
        return op, (args[0], *lists), kwargs

    return write


def _paired_convolution(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Written:
    pairs = [list(a) * 2 if isinstance(a, list) and len(a) == 1 else a for a in args]
    return "aten.conv2d.default", tuple(pairs), kwargs


_REWRITES: dict[str, Callable[..., Written]] = {
    "aten._native_batch_norm_legit.no_stats": _no_stats,
    "aten._native_batch_norm_legit_no_training.default": _inner_batch_norm,
    "aten.avg_pool2d.default": _pooled("aten.avg_pool2d.default"),
    "aten.batch_norm.default": _any_batch_norm,
    "aten.conv2d.default": _paired_convolution,
    "aten.convolution.default": _any_convolution,
    "aten.hardtanh.default": _hardtanh,
    "aten.instance_norm.default": _instance_norm,
    "aten.max_pool2d.default": _pooled("aten.max_pool2d.default"),
    "aten.native_batch_norm.default": _any_batch_norm,
    "aten.native_group_norm.default": _group_norm,
    "aten.native_layer_norm.default": _layer_norm,
}
