"""What a step takes of a device's memory, told before it runs."""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from free_jax.errors import InputError


def compiled(step: Callable, *arguments: Any) -> tuple[Callable, int | None]:
    """The step compiled for its arguments, and the bytes that it needs.

    Args:
      step: of `jax.jit`; another, such as one of several programs, stays as it is.
      *arguments: of the first call.

    Returns:
      What to call, and bytes of arguments, results and all between them; None where
      the backend does not tell.
    """
    if not hasattr(step, "lower"):
        return step, None
    program, placed = step.lower(*arguments).compile(), _placement(arguments)
    try:
        found = program.memory_analysis()
    except (NotImplementedError, RuntimeError):
        found = None

    def call(*arguments: Any) -> Any:
        # What is placed otherwise than at first is not what was compiled.
        return (program if _placement(arguments) == placed else step)(*arguments)

    if found is None:
        return call, None
    held = found.argument_size_in_bytes + found.output_size_in_bytes
    shared = found.alias_size_in_bytes + found.host_alias_size_in_bytes
    return call, int(held - shared + found.temp_size_in_bytes)


def _placement(arguments: Any) -> list[Any]:
    """What a compiled program takes for granted of its arguments."""
    return [
        (jnp.shape(x), getattr(x, "dtype", type(x)), getattr(x, "sharding", None))
        for x in jax.tree.leaves(arguments)
    ]


def available() -> int | None:
    """Bytes of one device; of a CPU, those of the machine; None where unknown."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    if device.platform == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def tell(needed: int | None, held: int | None, remedy: str) -> None:
    """One line on what a step takes.

    Args:
      needed: bytes of a step.
      held: bytes of a device.
      remedy: what to do where it does not fit.

    Raises:
      InputError: it does not fit.
    """
    if needed is None:
        return
    of = "" if held is None else f" of the device's {_words(held)}"
    if held is not None and needed > held:
        raise InputError(
            f"a step takes {_words(needed)} of memory, more than the device's "
            f"{_words(held)}; {remedy or 'make it smaller'}"
        )
    print(f"a step takes {_words(needed)}{of} of memory", flush=True)


def _words(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
