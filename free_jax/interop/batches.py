"""The program of a graph that was perhaps traced for a fixed number of images."""

import jax
import jax.numpy as jnp

from free_jax.errors import InputError
from free_jax.interop.programs import Program, canonical
from free_jax.interop.raw_graph import RawGraph
from free_jax.models.graph import Graph
from free_jax.types import PyTree


def program_of(
    graph: RawGraph, image_shape: tuple[int, int, int], *, source: str
) -> tuple[Program, PyTree]:
    """`canonical`, for any number of images wherever the graph allows that.

    A graph of a fixed number of images often does not depend on it, as `normal_form`
    writes shapes: then it is the program of the graph with a free number.  Otherwise it
    takes one image at a time.

    Args:
      graph: as a front-end read it.
      image_shape: (h, w, c) that it takes.
      source: what error messages call it.

    Raises:
      InputError: as `canonical`; or the graph takes several images at a time, no fewer
        and no more.
    """
    try:
        program, variables = canonical(graph, image_shape=image_shape)
        for number in {graph.fixed_batch or 1, 2, 3}:
            _check_shapes(program, variables, image_shape, number)
        return program, variables
    except InputError as error:
        if graph.fixed_batch is None:
            raise InputError(f"{source}: {error}") from error
    if graph.fixed_batch != 1:
        raise InputError(
            f"{source}: takes {graph.fixed_batch} images at a time, no fewer and no "
            "more; export it for any number of images (dynamic_shapes)"
        )
    try:
        program, variables = canonical(graph, image_shape=image_shape, batch=1)
        _check_shapes(program, variables, image_shape, 2)
    except InputError as error:
        raise InputError(f"{source}: {error}") from error
    return program, variables


def _check_shapes(
    program: Program,
    variables: PyTree,
    image_shape: tuple[int, int, int],
    number: int,
) -> None:
    network = Graph(program.num_classes, program.text)
    images = jax.ShapeDtypeStruct((number, *image_shape), jnp.float32)
    outputs = jax.eval_shape(
        lambda v, x: network.apply(v, x, norm="running"), variables, images
    )
    if outputs.shape != (number, program.num_classes):
        raise InputError(
            f"gives {list(outputs.shape)} for {number} images, not one "
            f"row of {program.num_classes} for each"
        )
