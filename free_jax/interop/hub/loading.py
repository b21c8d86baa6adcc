"""One call for teachers, converted already or not."""

import pathlib
import warnings
from typing import Any

from free_jax import zoo as zoo_lib
from free_jax.interop.hub.folder import survey, zoo_of
from free_jax.interop.hub.options import HubOptions
from free_jax.interop.hub.reasons import counted, left_out


def load_zoo(path: Any, options: HubOptions = HubOptions()) -> zoo_lib.Zoo:
    """A zoo from a folder: one that `save_zoo` wrote, or a folder of models.

    Models that cannot be used are left out, with a warning that says why.

    Args:
      path: of the folder.  A converted zoo may be remote, e.g. ``gs://``; models are
        local.
      options: how models are read; of no effect on a converted zoo.

    Raises:
      InputError: there is no zoo and no model that can be used, and why.
    """
    local = "://" not in str(path) and pathlib.Path(path).expanduser()
    if local and local.exists() and not (local / "zoo.json").exists():
        found = survey(local, options)
        zoo = zoo_of(found).zoo
        reasons = left_out(found.cards)
        if reasons:
            warnings.warn(
                f"{local}: {counted(found.cards)}; left out: {'; '.join(reasons)}",
                stacklevel=2,
            )
        return zoo
    return zoo_lib.load_zoo(path)
