"""The teachers of a run: trained in it, loaded, or behind endpoints."""

import contextlib
from collections.abc import Iterator
from typing import Any

from experiments import inputs
from experiments.harness.run import Run
from experiments.inputs import endpoints
from experiments.stages import pretrain
from free_jax.zoo import Zoo


@contextlib.contextmanager
def opened(config: Any, run: Run) -> Iterator[Zoo | None]:
    """The teachers of ``config.zoo``, on their devices.

    None where none is configured, because real images are learned from.

    Raises:
      Stopped: stop was requested while they were trained.
      InputError: teachers that cannot be loaded or reached, or are not as asked for.
    """
    with contextlib.ExitStack() as exits:
        zoo = None
        if config.zoo.pretrain.num_teachers:
            zoo = pretrain.train_zoo(config, config.zoo.pretrain, run)
        elif config.zoo.path:
            zoo = inputs.load_zoo(config)
        elif config.zoo.apis:
            remote = endpoints.opened(config.zoo.apis, run.workdir, config.data.name)
            zoo = inputs.select(config, exits.enter_context(remote))
        if zoo is not None:
            zoo = inputs.computing_in(inputs.sabotaged(config, zoo), config.dtype)
            zoo = inputs.place_zoo(zoo, run.place)
        yield zoo
