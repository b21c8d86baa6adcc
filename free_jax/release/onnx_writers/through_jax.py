"""Networks that no writer here knows, traced by jax2onnx (the extra ``export``)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from free_jax.errors import InputError


def traced(
    function: Callable[[jax.Array], jax.Array],
    image_shape: tuple[int, int, int],
    dtype: Any,
    *,
    network: str,
    outputs: str,
) -> Any:
    """An ONNX model of a function of images, for any number of them.

    Args:
      function: images [n, h, w, c] to rows [n, d].
      image_shape: (h, w, c).
      dtype: of the images.
      network: named where it cannot be done.
      outputs: name of the rows.

    Raises:
      InputError: jax2onnx is missing, or does not know an operation.
    """
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            f"{network}: no writer of this library makes ONNX of it; jax2onnx may: "
            'pip install "free_jax[export]", or use --format=safetensors'
        ) from None
    images: Any = jax.ShapeDtypeStruct(("n", *image_shape), jnp.dtype(dtype))
    try:
        model = jax2onnx.to_onnx(function, [images], model_name="free_jax")
    except Exception as error:  # Of another library, of whatever kind.
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{network}: jax2onnx cannot write it ({type(error).__name__}: {reason}); "
            "use --format=safetensors"
        ) from error
    for value, name in ((model.graph.input[0], "images"),
                        (model.graph.output[0], outputs)):  # fmt: skip
        _rename(model.graph, value.name, name)
        value.name = name
    return model


def _rename(graph: Any, former: str, name: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for i, found in enumerate(names):
                if found == former:
                    names[i] = name
