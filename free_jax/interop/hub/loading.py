"""One call for teachers, converted already or not."""

import pathlib
from typing import Any

from free_jax import zoo as zoo_lib
from free_jax.interop.hub.folder import read_zoo
from free_jax.interop.hub.options import HubOptions


def load_zoo(path: Any, options: HubOptions = HubOptions()) -> zoo_lib.Zoo:
    """A zoo from a folder: one that `save_zoo` wrote, or a folder of models.

    Args:
      path: of the folder.  A converted zoo may be remote, e.g. ``gs://``; models are
        local.
      options: how models are read; of no effect on a converted zoo.

    Raises:
      InputError: there is no zoo and no model that can be used, and why.
    """
    local = "://" not in str(path) and pathlib.Path(path).expanduser()
    if local and local.exists() and not (local / "zoo.json").exists():
        return read_zoo(local, options)
    return zoo_lib.load_zoo(path)
