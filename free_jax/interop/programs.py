"""From a raw graph to the program that `models.graph.Graph` runs, and its weights.

The text of a program is the identity of a group of teachers: equal for equal
architectures whatever library wrote them, and for any number of classes where a linear
head is at the end.
"""

import inspect
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from free_jax.errors import InputError
from free_jax.interop.endings import (
    Head,
    inputs,
    linear_head,
    needed,
    one_pooling,
    without_softmax,
)
from free_jax.interop.raw_graph import Node, RawGraph, Ref
from free_jax.interop.spelling import plain
from free_jax.models import graph as graph_module
from free_jax.models import program_text
from free_jax.models.operators import OPERATORS, unknown
from free_jax.models.program_text import Instructions, Value
from free_jax.types import PyTree

# Numbers without a name in a state_dict belong to the program, up to this many bytes
# (compressed); larger ones are weights that cannot be filled from another model.
_LARGE_CONSTANT = 100_000


class Program(NamedTuple):
    """A classifier without its weights.

    Attributes:
      text: canonical, compressed; see `models.program_text`.
      leaves: paths of leaves ("params/w003", "params/head/kernel",
        "batch_stats/n000/mean") to state_dict keys; "" where the leaf has none.
      num_classes: of the model that it was made from.
      gives: "gradients"; "features" where a linear head was found; "moments" where
        there are batch norms.
      output: what the graph gave before its tail was cut: "logits", "probabilities"
        or "log-probabilities".
      kernel_transposed: whether the head's kernel is [classes, features] in the file.
    """

    text: str
    leaves: dict[str, str]
    num_classes: int
    gives: frozenset[str]
    output: str
    kernel_transposed: bool = True


def canonical(
    graph: RawGraph,
    *,
    image_shape: tuple[int, int, int] | None = None,
    batch: int | None = None,
) -> tuple[Program, PyTree]:
    """The program of a graph, and its variables.

    Args:
      graph: as a front-end read it.
      image_shape: (h, w, c) of images that it takes, if known; only used to count the
        classes of a graph without a linear head.
      batch: 1 where the graph takes one image at a time; None: any number.

    Returns:
      The program, and ``{"params": {"w000": .., "head": {"kernel" [f, C], "bias" [C]}},
      "batch_stats": {"n000": {"mean", "var"}}}`` as float32 arrays.

    Raises:
      InputError: the graph holds operators that are not known (all are named), or
        uses them in ways that are not.
    """
    if batch not in (None, 1):
        raise InputError(
            f"the graph takes {batch} images at a time; export it with a free batch"
        )
    graph = plain(graph)
    graph, given = without_softmax(graph)
    graph = needed(graph)
    head = linear_head(graph)
    if head is not None:
        graph = _with_head(graph, head)
    graph = needed(one_pooling(graph))
    if not any(graph.input in inputs(node) for node in graph.nodes):
        raise InputError("the graph's output does not depend on its input")
    if missing := unknown({node.op for node in graph.nodes} - {"head"}):
        raise InputError(
            f"operators that free_jax does not know: {', '.join(missing)}; leave the "
            "model out, or write them down in free_jax/models/operators"
        )
    text, variables, leaves = _Writer(graph, head, batch).write()
    if head is not None:
        num_classes = variables["params"]["head"]["kernel"].shape[1]
    else:
        num_classes = _count_classes(text, variables, image_shape)
    gives = {"gradients"}
    gives |= {"features"} if head is not None else set()
    gives |= {"moments"} if variables["batch_stats"] else set()
    transposed = head is None or head.transposed
    return (
        Program(text, leaves, num_classes, frozenset(gives), given, transposed),
        variables,
    )


def fill(program: Program, state: Mapping[str, np.ndarray], source: str) -> PyTree:
    """The variables of another model of the same architecture, by key.

    Args:
      program: made from a sibling.
      state: arrays by state_dict key, of any float type.
      source: the file, for messages.

    Returns:
      The tree that `canonical` gives, float32; the number of classes is the state's.

    Raises:
      InputError: keys that are missing or shapes that differ (the first are named).
    """
    instructions = program_text.read(program.text)
    variables: PyTree = {"params": {}, "batch_stats": {}}
    missing, unlike = [], []
    for path, key in program.leaves.items():
        if key not in state:
            missing.append(key or f"{path} (made by the model's own code)")
            continue
        array = as_float32(np.asarray(state[key]))
        if path == "params/head/kernel" and program.kernel_transposed:
            array = array.T if array.ndim == 2 else array
        wanted = _wanted_shape(instructions, path)
        fits = len(array.shape) == len(wanted) and all(
            size in (-1, found) for size, found in zip(wanted, array.shape, strict=True)
        )
        if not fits:
            unlike.append(f"{key} is {list(array.shape)} instead of {list(wanted)}")
            continue
        _place(variables, path, array)
    if missing or unlike:
        said = [f"it lacks {', '.join(missing[:3])}"] if missing else []
        said += unlike[:3]
        more = len(missing) + len(unlike) - min(len(missing), 3) - min(len(unlike), 3)
        raise InputError(
            f"{source} does not fit the architecture: {'; '.join(said)}"
            + (f"; and {more} more" if more else "")
        )
    if instructions.head is not None:
        head = variables["params"]["head"]
        classes = head["kernel"].shape[1]
        head.setdefault("bias", np.zeros(classes, np.float32))
        if head["bias"].shape != (classes,):
            raise InputError(
                f"{source}: the head has {classes} outputs but a bias of "
                f"{head['bias'].size}"
            )
    return variables


def as_float32(array: np.ndarray) -> np.ndarray:
    """Half and double precision, and bfloat16, as float32."""
    return np.ascontiguousarray(array).astype(np.float32).reshape(array.shape)


def _wanted_shape(instructions: Instructions, path: str) -> tuple[int, ...]:
    group, name, *rest = path.split("/")
    if group == "batch_stats":
        return (instructions.norms[name],)
    if name == "head":
        return (instructions.head or -1, -1) if rest == ["kernel"] else (-1,)
    return instructions.shapes[name]


def _place(variables: PyTree, path: str, array: np.ndarray) -> None:
    *folders, name = path.split("/")
    for folder in folders:
        variables = variables.setdefault(folder, {})
    variables[name] = array


def _with_head(graph: RawGraph, head: Head) -> RawGraph:
    """The graph whose last node is the head; what only reshaped its output is gone."""
    last = Node("head", (Ref(head.features),), {}, "the head")
    return graph._replace(nodes=(*graph.nodes, last), output=last.out)


def _count_classes(
    text: str, variables: PyTree, image_shape: tuple[int, int, int] | None
) -> int:
    """The size of the output, for some image that the graph takes."""
    instructions = program_text.read(text)
    sizes = (224, 64, 32, 256, 299, 384, 28, 48, 96, 128, 16)
    tried = [(size, size, c) for c in (3, 1) for size in sizes]
    failure: Exception | None = None
    for shape in [image_shape] if image_shape else tried:
        try:
            out, _ = jax.eval_shape(
                lambda v, x: graph_module.run(
                    instructions, v["params"], v["batch_stats"], x
                ),
                variables,
                jax.ShapeDtypeStruct((1, *shape), jnp.float32),
            )
            return int(out.shape[1])
        except InputError as error:
            failure = failure or error
    raise InputError(f"the graph takes no images of a usual size: {failure}")


class _Writer:
    """Names values by order, weights by first use, and writes the text."""

    def __init__(self, graph: RawGraph, head: Head | None, batch: int | None):
        self.graph, self.head, self.batch = graph, head, batch
        self.names = {graph.input: "x"}
        self.variables: PyTree = {"params": {}, "batch_stats": {}}
        self.leaves: dict[str, str] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.same: dict[tuple, str] = {}
        self.floating = {graph.input}

    def write(self) -> tuple[str, PyTree, dict[str, str]]:
        graph, nodes = self.graph, []
        for node in graph.nodes:
            if self._is_float_cast(node):
                self.names[node.out] = self.value(node.args[0]).name
                self.floating.add(node.out)
                continue
            nodes.append(self.node(node))
            self.names[node.out] = f"v{len(nodes) - 1}"
            if node.op in _NORMS or _is_floating(node, self.floating):
                self.floating.add(node.out)
        features = None
        if self.head is not None:
            features = Value(self.names[self.head.features])
            self._add_head(self.head)
        params = self.variables["params"]
        instructions = Instructions(
            tuple(nodes),
            Value(self.names[graph.output]),
            features,
            params["head"]["kernel"].shape[0] if self.head is not None else None,
            {name: w.shape for name, w in params.items() if name != "head"},
            {n: s["mean"].size for n, s in self.variables["batch_stats"].items()},
            self.constants,
            self.batch,
        )
        return program_text.write(instructions), self.variables, self.leaves

    def node(self, node: Node) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """The node with its arguments as its operator's signature orders them."""
        if node.op == "head":
            return "head", (self.value(node.args[0]),), {}
        statistics = _statistics(node, self.graph.weights)
        if statistics is not None:
            x, weight, bias, eps = statistics.rest
            name = f"n{len(self.variables['batch_stats']):03d}"
            for kind, source in (("mean", statistics.mean), ("var", statistics.var)):
                self._leaf(f"batch_stats/{name}/{kind}", source)
            values = tuple(self.value(arg) for arg in (x, weight, bias))
            return "batch_norm", (*values, Value(name), eps), {}
        args, kwargs = _ordered(node)
        return (
            node.op,
            tuple(self.value(arg) for arg in args),
            {key: self.value(arg) for key, arg in sorted(kwargs.items())},
        )

    def value(self, arg: Any) -> Any:
        """The argument with names of this program."""
        if isinstance(arg, Ref):
            return Value(self._name(arg.name))
        if isinstance(arg, list | tuple):
            return [self.value(part) for part in arg]
        return arg

    def _name(self, name: str) -> str:
        if name in self.names:
            return self.names[name]
        if name not in self.graph.weights:
            raise InputError(f"the graph uses {name[:60]!r} before it is made")
        array = np.asarray(self.graph.weights[name])
        floats = jnp.issubdtype(array.dtype, jnp.floating)
        key = self.graph.keys.get(name, "")
        if floats:
            self.floating.add(name)
        if floats and (key or _is_large(array)):
            mine = f"w{len(self.leaves_of_params()):03d}"
            self._leaf(f"params/{mine}", name)
        else:
            mine = self._constant(array)
        self.names[name] = mine
        return mine

    def leaves_of_params(self) -> list[str]:
        return [name for name in self.variables["params"] if name != "head"]

    def _leaf(self, path: str, source: str) -> None:
        _place(self.variables, path, as_float32(np.asarray(self.graph.weights[source])))
        self.leaves[path] = self.graph.keys.get(source, "")

    def _constant(self, array: np.ndarray) -> str:
        array = _small_kind(array)
        content = (array.dtype.str, array.shape, array.tobytes())
        if content not in self.same:
            self.same[content] = f"c{len(self.constants)}"
            self.constants[self.same[content]] = array
        return self.same[content]

    def _add_head(self, head: Head) -> None:
        kernel = as_float32(np.asarray(self.graph.weights[head.kernel]))
        kernel = kernel.T if head.transposed else kernel
        self.variables["params"]["head"] = {"kernel": kernel}
        self.leaves["params/head/kernel"] = self.graph.keys.get(head.kernel, "")
        if head.bias is None:
            bias = np.zeros(kernel.shape[1], np.float32)
            self.variables["params"]["head"]["bias"] = bias
        else:
            self._leaf("params/head/bias", head.bias)

    def _is_float_cast(self, node: Node) -> bool:
        """A change of a float's width: the network's own matter, see `Graph.dtype`."""
        if node.op != "aten.to.dtype" or not isinstance(node.args[0], Ref):
            return False
        name = node.args[0].name
        if name in self.graph.weights:
            self.value(node.args[0])
        wide = node.args[1] in _FLOATS
        return wide and name in self.floating


_FLOATS = {f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64")}
_NORMS = {"aten.batch_norm.default", "onnx.BatchNormalization"}
_MAKES_FLOATS = (
    *(
        "conv",
        "linear",
        "norm",
        "pool",
        "softmax",
        "gelu",
        "sigmoid",
        "tanh",
        "upsample",
    ),
    *("attention", "head", "mean"),
)
_NEVER_FLOATS = (
    *("eq.", "ne.", "lt.", "le.", "gt.", "ge.", "arg", "sym_", "one_hot", "logical"),
    *("bitwise", "isnan", "isinf", "isfinite", "any.", "all.", "to.dtype", "numel"),
    *("new_", "full", "zeros", "ones", "empty", "max.dim", "min.dim", "topk", "sort"),
)


def _is_floating(node: Node, floating: set[str]) -> bool:
    """Whether a result is surely of floating point; lists of results are not told."""
    name = node.op.removeprefix("aten.").lstrip("_")
    if name.startswith(_NEVER_FLOATS):
        return False
    if any(part in name for part in _MAKES_FLOATS):
        return True
    first = node.args[0] if node.args else None
    first = first[0] if isinstance(first, list) and first else first
    return isinstance(first, Ref) and first.name in floating


class _Statistics(NamedTuple):
    rest: tuple[Any, Any, Any, float]  # x, weight, bias, eps
    mean: str
    var: str


def _statistics(node: Node, weights: Mapping[str, np.ndarray]) -> _Statistics | None:
    """What a batch norm normalises by, where these are weights of the graph."""
    if node.op == "aten.batch_norm.default":
        x, weight, bias, mean, var, training, eps = node.args
        if training:
            return None
    elif node.op == "onnx.BatchNormalization":
        x, weight, bias, mean, var = node.args[:5]
        eps = float(node.kwargs.get("epsilon", 1e-5))
        eps = float(f"{eps:.7g}")  # single precision in the file
    else:
        return None
    if not (isinstance(mean, Ref) and isinstance(var, Ref)):
        return None
    if mean.name not in weights or var.name not in weights:
        return None
    return _Statistics((x, weight, bias, eps), mean.name, var.name)


def _ordered(node: Node) -> tuple[list[Any], dict[str, Any]]:
    """Arguments in the signature's order, without those that are its defaults."""
    function: Callable[..., Any] = OPERATORS[node.op]
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return list(node.args), node.kwargs
    try:
        bound = inspect.signature(function).bind(*node.args, **node.kwargs).arguments
    except TypeError as error:
        raise InputError(
            f"{node.op} with arguments that free_jax does not know: {error}"
        ) from None
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.name not in bound:
            args.append(parameter.default)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            kwargs[parameter.name] = bound[parameter.name]
        else:
            args.append(bound[parameter.name])
    defaults = [p.default for p in parameters if p.kind is not p.KEYWORD_ONLY]
    while args and _equal(args[-1], defaults[len(args) - 1]):
        args.pop()
    return args, kwargs


def _equal(value: Any, default: Any) -> bool:
    if isinstance(value, list | tuple) and isinstance(default, int):
        return bool(value) and all(isinstance(v, int) and v == default for v in value)
    return type(value) is type(default) and value == default


def _is_large(array: np.ndarray) -> bool:
    if array.nbytes <= _LARGE_CONSTANT:
        return False
    return len(zlib.compress(as_float32(array).tobytes(), 9)) > _LARGE_CONSTANT


def _small_kind(array: np.ndarray) -> np.ndarray:
    """The table in one of the types that a text keeps."""
    if jnp.issubdtype(array.dtype, jnp.floating):
        return as_float32(array)
    if array.dtype.kind == "b" or array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iu":
        raise InputError(f"the graph holds a table of type {array.dtype}")
    limit = np.iinfo(np.int32)
    if array.size and (array.min() < limit.min or array.max() > limit.max):
        array = np.clip(array, limit.min, limit.max)
    return array.astype(np.int32)
