"""What a step takes of a device's memory, told before it runs."""

import contextlib
import math
import os
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from free_jax.errors import InputError


class Watch:
    """Looks at every program of a step before it first runs.

    watch = Watch()
    step = algorithm.compiled(jit=watch.jit)
    with watch.holding((key, state, data)):
        step(key, state, data)
    """

    def __init__(self, remedy: str = ""):
        """Has seen nothing yet.

        Args:
          remedy: what to do where a step does not fit.
        """
        self._remedy, self._held, self._most, self._told = remedy, (), 0, 0

    def jit(self, fn: Callable, donate_argnums: int | tuple[int, ...] = ()) -> Callable:
        """As `jax.jit`; what it gives is compiled once for each kind of arguments.

        Calling it raises an InputError, before anything runs, where what the program
        needs and what else the step holds do not fit the device.
        """
        program, known = jax.jit(fn, donate_argnums=donate_argnums), {}

        def call(*arguments: Any) -> Any:
            placed = _placement(arguments)
            if placed not in known:
                known[placed], needed = compiled(program, *arguments)
                self._look(needed, arguments)
            return known[placed](*arguments)

        return call

    @contextlib.contextmanager
    def holding(self, arguments: Any) -> Iterator[None]:
        """A step, whose arguments stay on the device whichever program runs.

        Says at its end what it takes, if that is more than was told before.
        """
        self._held = arguments
        try:
            yield
        finally:
            self._held = ()
        if self._most > self._told:
            self._told = self._most
            tell(self._told, available(), self._remedy)

    def _look(self, needed: int | None, arguments: Any) -> None:
        if needed is None:
            return
        mine = set(map(id, jax.tree.leaves(arguments)))
        beside = [x for x in jax.tree.leaves(self._held) if id(x) not in mine]
        needed += sum(map(_bytes, beside))
        held = available()
        if held is not None and needed > held:
            tell(needed, held, self._remedy)
        self._most = max(self._most, needed)


def compiled(step: Any, *arguments: Any) -> tuple[Callable, int | None]:
    """A program compiled for its arguments, and the bytes that it needs.

    Args:
      step: of `jax.jit`.
      *arguments: as they will be placed in every call.

    Returns:
      What to call, and bytes of arguments, results and all between them; None where
      the backend does not tell.
    """
    program = step.lower(*arguments).compile()
    try:
        found = program.memory_analysis()
    except (NotImplementedError, RuntimeError):
        found = None
    if found is None:
        return program, None
    held = found.argument_size_in_bytes + found.output_size_in_bytes
    shared = found.alias_size_in_bytes + found.host_alias_size_in_bytes
    return program, int(held - shared + found.temp_size_in_bytes)


def _placement(arguments: Any) -> Hashable:
    """What a compiled program takes for granted of its arguments."""
    leaves, structure = jax.tree.flatten(arguments)
    placed = [
        (jnp.shape(x), getattr(x, "dtype", type(x)), getattr(x, "sharding", None))
        for x in leaves
    ]
    return structure, tuple(placed)


def _bytes(array: Any) -> int:
    """Of one device; none of what is on the host, or was given away."""
    if not isinstance(array, jax.Array) or array.is_deleted():
        return 0
    part = math.prod(array.sharding.shard_shape(array.shape))
    return part * array.dtype.itemsize


def available() -> int | None:
    """Bytes of one device; of a CPU, those of the machine; None where unknown."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    if device.platform == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def tell(needed: int, held: int | None, remedy: str) -> None:
    """One line on what a step takes.

    Args:
      needed: bytes of a step.
      held: bytes of a device.
      remedy: what to do where it does not fit.

    Raises:
      InputError: it does not fit.
    """
    of = "" if held is None else f" of the device's {_words(held)}"
    if held is not None and needed > held:
        raise InputError(
            f"a step takes {_words(needed)} of memory, more than the device's "
            f"{_words(held)}; {remedy or 'make it smaller'}"
        )
    print(f"a step takes {_words(needed)}{of} of memory", flush=True)


def _words(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
