"""Exports small torch modules for the tests of graphs."""

import operator

import numpy as np
import torch

from free_jax.interop.raw_graph import Node, RawGraph, Ref


def _plain(value):
    if isinstance(value, torch.fx.Node):
        return Ref(value.name)
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, torch.device | torch.layout | torch.memory_format):
        return None
    return value


def raw_graph(module, images: torch.Tensor, *, functional: bool = True) -> RawGraph:
    """The graph of a module by `torch.export`, with a free batch."""
    module = module.eval()
    batch = torch.export.Dim("n", min=1, max=4096)
    with torch.no_grad():
        exported = torch.export.export(
            module, (images,), dynamic_shapes=({0: batch},), strict=False
        )
    if functional:
        exported = exported.run_decompositions({})
    signature = exported.graph_signature
    arrays = {**exported.state_dict, **exported.constants}
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lifted = signature.inputs_to_lifted_tensor_constants
    weights, nodes, image, output = {}, [], "", ""
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            if node.name in named or node.name in lifted:
                key = {**named, **lifted}[node.name]
                weights[node.name] = arrays[key].detach().numpy()
            else:
                image = node.name
        elif node.op == "call_function":
            known = node.target is operator.getitem or callable(node.target)
            assert known
            overload = isinstance(node.target, torch._ops.OpOverload)
            op = str(node.target) if overload else node.target.__name__
            kwargs = {k: _plain(v) for k, v in node.kwargs.items()}
            args = tuple(_plain(arg) for arg in node.args)
            nodes.append(Node(op, args, kwargs, node.name))
        elif node.op == "output":
            output = node.args[0][0].name
    kept = set(exported.state_dict) - set(signature.non_persistent_buffers)
    keys = {name: key for name, key in named.items() if key in kept}
    return RawGraph(image, tuple(nodes), output, weights, keys)


def images(n=3, c=3, size=16, seed=1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, c, size, size, generator=generator)


def nhwc(x: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(x.detach().numpy().transpose(0, 2, 3, 1))
