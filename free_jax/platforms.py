"""Which platform a program is lowered for, asked in one place.

Convolutions, and how tasks are mapped, have one form on a CPU and another on an
accelerator.  Programs are lowered for the backend that runs here, unless someone
lowers them for another machine::

    with lowering_for("tpu"):
        exported = jax.export.export(jax.jit(fn), platforms=["tpu"])(*arguments)
"""

import jax

# A part of what `jax.jit` knows a trace by: no program is taken for another platform's.
_target = jax.make_user_context(None)


def platform() -> str:
    """The platform of the program that is being traced: "cpu", "cuda" or "tpu"."""
    return _target.value or jax.default_backend()


def is_cpu() -> bool:
    """Whether the forms for a CPU are wanted."""
    return platform() == "cpu"


def lowering_for(name: str):
    """A context in which programs get the forms of a platform that need not be here.

    Args:
      name: "cpu", "cuda", "rocm" or "tpu".
    """
    return _target(name)
