"""The teachers of a run: trained in it, loaded, or behind endpoints."""

import contextlib
from collections.abc import Iterator

from experiments import inputs
from experiments.harness.options import CheckpointOptions, Dtype
from experiments.harness.run import Run
from experiments.inputs import endpoints
from experiments.inputs.options import DataOptions, ZooOptions
from experiments.stages import pretrain
from free_jax.zoo import Zoo, merge


@contextlib.contextmanager
def opened(
    options: ZooOptions,
    run: Run,
    *,
    data: DataOptions,
    dtype: Dtype = "float32",
    checkpoint: CheckpointOptions = CheckpointOptions(),
) -> Iterator[Zoo | None]:
    """The teachers of a run, on their devices.

    None where none is asked for, because real images are learned from.

    Args:
      options: which teachers.
      run: keeps those that are trained here, and what endpoints answer.
      data: whose classes they know.
      dtype: what they compute in.
      checkpoint: of their training.

    Raises:
      Stopped: stop was requested while they were trained.
      InputError: teachers that cannot be loaded or reached, or are not as asked for.
    """
    with contextlib.ExitStack() as exits:
        zoo = None
        if options.pretrain.num_teachers:
            zoo = pretrain.train_zoo(
                options.pretrain, run, data=data, dtype=dtype, checkpoint=checkpoint
            )
        else:
            found = [inputs.load_zoo(options, data)] if options.path else []
            if options.apis:
                remote = endpoints.opened(options.apis, run.workdir, data.name)
                found.append(inputs.select(exits.enter_context(remote), options))
            if found:
                zoo = found[0] if len(found) == 1 else merge(found)
        if zoo is not None:
            zoo = inputs.sabotaged(zoo, options.sabotage, run.seed)
            zoo = inputs.computing_in(zoo, dtype)
            zoo = inputs.place_zoo(zoo, run.place)
        yield zoo
