"""A torch module -> `RawGraph`, by ``torch.export``.  PyTorch is needed here only.

The module is traced in inference, for any number of images where it allows that, for
one image otherwise.
"""

import contextlib
import logging
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from free_jax.errors import InputError
from free_jax.interop.normal_form import Images, Size, Traced, normal_form
from free_jax.interop.raw_graph import Node, RawGraph, Ref

if TYPE_CHECKING:
    import torch

# Where a value lies in memory, and how: nothing that a program says.
PLACEMENT = {
    *("device", "layout", "pin_memory", "memory_format", "non_blocking", "generator"),
    "requires_grad",
}


def export_module(
    module: "torch.nn.Module", image_shape_chw: tuple[int, int, int], *, source: str
) -> RawGraph:
    """Traces a classifier.

    Args:
      module: takes images [n, c, h, w] and returns logits or probabilities [n, classes]
        (or a tuple, a dict or a record of which these are the first such tensor).
        Put into inference mode; its weights are not changed.
      image_shape_chw: channels, height and width of its images.
      source: what error messages call it.

    Raises:
      InputError: torch.export refuses the module, or it returns no [n, classes].
    """
    import torch

    module.eval()
    wrapped = _first_logits(module, source)
    with torch.no_grad(), _quietly():
        try:
            number = torch.export.Dim("images", min=1, max=65536)
            exported = _export(wrapped, torch.zeros(2, *image_shape_chw), number)
            fixed_batch = None
        except InputError:
            raise
        except Exception:
            # Networks that reshape by numbers take one image at a time.
            exported, fixed_batch = _export_one(wrapped, image_shape_chw, source), 1
    graph = normal_form(_traced(exported, source), source)
    in_file = getattr(module, "keys_in_file", {})
    keys = {name: in_file.get(key, key) for name, key in graph.keys.items()}
    return graph._replace(keys=keys, fixed_batch=fixed_batch)


def _export_one(wrapped: Any, image_shape_chw: tuple[int, int, int], source: str):
    import torch

    try:
        return _export(wrapped, torch.zeros(1, *image_shape_chw), None)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{source}: torch.export cannot trace it ({_reason(error)}); the network "
            "must not branch on the values of images, nor call code outside PyTorch"
        ) from error


def _export(wrapped: Any, images: "torch.Tensor", number: Any):
    import torch

    dynamic = None if number is None else ({0: number},)
    exported = torch.export.export(
        wrapped, (images,), dynamic_shapes=dynamic, strict=False
    )
    return exported.run_decompositions({})


def _first_logits(module: "torch.nn.Module", source: str) -> "torch.nn.Module":
    """`module` with one result, [images, classes], whatever it returns."""
    import torch

    class FirstLogits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = module

        def forward(self, images):
            result = self.network(images)
            if isinstance(result, Mapping):
                result = [*result.values()]
            results = result if isinstance(result, list | tuple) else [result]
            tensors = [value for value in results if isinstance(value, torch.Tensor)]
            for value in tensors:
                if value.ndim == 2:
                    return value
            shapes = ", ".join(_shown(value.shape) for value in tensors) or "none"
            raise InputError(
                f"{source}: no classifier, its results are of shape {shapes}; one of "
                "shape [images, classes] is needed"
            )

    return FirstLogits().eval()


def _shown(shape: Any) -> str:
    sizes = [str(size) if isinstance(size, int) else "images" for size in shape]
    return f"[{', '.join(sizes)}]"


@contextlib.contextmanager
def _quietly():
    """torch.export warns and logs about itself."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> str:
    """The first line of torch's message that says something, short."""
    for line in str(error).splitlines():
        text = line.strip(" *-:")
        if text:
            return text[:160]
    return type(error).__name__


def _traced(exported: "torch.export.ExportedProgram", source: str) -> Traced:
    import torch

    signature = exported.graph_signature
    keys = dict(signature.inputs_to_parameters)
    persistent = set(exported.state_dict)
    keys |= dict(signature.inputs_to_buffers)
    constants = dict(signature.inputs_to_lifted_tensor_constants)
    arrays = {**exported.constants, **exported.state_dict}
    weights = {name: _array(arrays[key]) for name, key in {**keys, **constants}.items()}
    prefix = "network."
    keys = {
        name: key.removeprefix(prefix)
        for name, key in keys.items()
        if key in persistent and key not in signature.non_persistent_buffers
    }
    images = [
        node
        for node in exported.graph.nodes
        if node.op == "placeholder" and node.name not in weights
    ]
    symbol = getattr(images[0].meta["val"].shape[0], "node", None)
    shapes: dict[str, tuple[Size, ...]] = {}
    dtypes: dict[str, str] = {}
    sizes: dict[str, Size] = {}
    nodes, output = [], ""
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            shapes[node.name] = tuple(_size(size, symbol) for size in value.shape)
            dtypes[node.name] = str(value.dtype)
        elif isinstance(value, torch.SymInt):
            sizes[node.name] = _size(value, symbol)
        if node.op == "call_function":
            nodes.append(_node(node, source))
        elif node.op == "output":
            output = node.args[0][0].name
        elif node.op == "get_attr":
            raise InputError(
                f"{source}: holds a graph within the graph ({node.target}), as of "
                "torch.cond or a custom autograd function; that is not read"
            )
    graph = RawGraph(images[0].name, tuple(nodes), output, weights, keys)
    return Traced(graph, shapes, dtypes, sizes)


def _array(tensor: "torch.Tensor") -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()
    return tensor.contiguous().numpy().copy()


def _size(size: Any, symbol: Any) -> Size:
    """A size of a traced tensor; `symbol` stands for the number of images."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    if expression.is_Integer:
        return int(expression)
    times, rest = expression.as_coeff_Mul()
    of_images = symbol is not None and rest == symbol.expr and times.is_Integer
    return Images(int(times)) if of_images else None


def _node(node: Any, source: str) -> Node:
    import torch

    if isinstance(node.target, torch._ops.OpOverload):
        op = str(node.target)
    else:
        op = node.target.__name__
    return Node(
        op,
        tuple(_plain(arg, op, source) for arg in node.args),
        {
            key: _plain(arg, op, source)
            for key, arg in node.kwargs.items()
            if key not in PLACEMENT
        },
        node.name,
    )


def _plain(arg: Any, op: str, source: str) -> Any:
    """An argument without torch's types."""
    import torch

    if isinstance(arg, torch.fx.Node):
        return Ref(arg.name)
    if isinstance(arg, list | tuple):
        return [_plain(value, op, source) for value in arg]
    if isinstance(arg, torch.dtype):
        return str(arg)
    if isinstance(arg, torch.device | torch.layout | torch.memory_format):
        return None
    if arg is None or isinstance(arg, bool | int | float | str):
        return arg
    raise InputError(
        f"{source}: {op} takes a {type(arg).__name__}, which is not read; "
        "a network of tensors and plain numbers is needed"
    )
