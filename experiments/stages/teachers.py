"""The teachers of a run: trained in it, loaded, or behind endpoints."""

import contextlib
import tempfile
from collections.abc import Iterator

from experiments import inputs
from experiments.harness import hosts, same_run
from experiments.harness.options import CheckpointOptions, Dtype
from experiments.harness.run import Run
from experiments.inputs import contents, endpoints
from experiments.inputs.options import DataOptions, ZooOptions
from experiments.stages import pretrain
from free_jax import zoo as zoo_lib
from free_jax.zoo import Zoo


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
      InputError: teachers that cannot be loaded or reached, are not as asked for, or
        are others than when the run was started.
    """
    with contextlib.ExitStack() as exits:
        zoo = None
        if options.pretrain.num_teachers:
            zoo = pretrain.train_zoo(
                options.pretrain, run, data=data, dtype=dtype, checkpoint=checkpoint
            )
        elif is_given(options):
            zoo = exits.enter_context(_given(options, data, run, run.workdir))
            run.confirm({"zoo": contents.of_teachers(zoo)})
        if zoo is not None:
            zoo = inputs.place_zoo(
                _treated(zoo, options, run, dtype), run.place, run.split
            )
        yield zoo


@contextlib.contextmanager
def looked_at(
    options: ZooOptions, run: Run, *, data: DataOptions, dtype: Dtype = "float32"
) -> Iterator[Zoo | None]:
    """What `opened` will give, to check what comes after it.

    Nothing is trained (weights are zeros then), written into the working directory, or
    sent to an endpoint that it may charge for: metadata is asked for only.

    Args:
      options: which teachers.
      run: only looked at.
      data: whose classes they know.
      dtype: what they compute in.

    Raises:
      InputError: as `opened`.
    """
    with contextlib.ExitStack() as exits:
        zoo, recipe = None, options.pretrain
        if recipe.num_teachers and pretrain.is_trained(run):
            zoo = zoo_lib.load_zoo(run.path("zoo"))
        elif recipe.num_teachers:
            yield pretrain.untrained(recipe, run, data=data, dtype=dtype)
            return
        elif is_given(options):
            # A ledger of its own: the run's is not even opened.
            place = exits.enter_context(tempfile.TemporaryDirectory())
            zoo = exits.enter_context(_given(options, data, run, place))
            found = {"zoo": contents.of_teachers(zoo)}
            same_run.check_contents(run.workdir, run.identity, found)
        yield zoo and _treated(zoo, options, run, dtype)


def is_given(options: ZooOptions) -> bool:
    """Whether teachers come from elsewhere, and are known by what they are."""
    return not options.pretrain.num_teachers and bool(options.path or options.apis)


@contextlib.contextmanager
def _given(
    options: ZooOptions, data: DataOptions, run: Run, place: str
) -> Iterator[Zoo]:
    """Loaded, or behind endpoints whose answers are kept in a folder, or both."""
    found = [_loaded(options, data, run)] if options.path else []
    if not options.apis:
        yield found[0]
        return
    with endpoints.opened(options.apis, place, data.name) as remote:
        found.append(inputs.select(remote, options))
        yield found[0] if len(found) == 1 else zoo_lib.merge(found)


def _loaded(options: ZooOptions, data: DataOptions, run: Run) -> Zoo:
    """As when the run was started, perhaps without real images.

    Ids of the classes of released teachers are those of the data's folder, where there
    is one; else they are counted.
    """
    zoo = inputs.load_zoo(options, data)
    before = hosts.agreed(
        same_run.noted(run.workdir).get("zoo") if hosts.is_writer() else None
    )
    if before and data.path and contents.of_teachers(zoo).parts != before["parts"]:
        counted = inputs.load_zoo(options, data._replace(path=""))
        if contents.of_teachers(counted).parts == before["parts"]:
            return counted
    return zoo


def _treated(zoo: Zoo, options: ZooOptions, run: Run, dtype: Dtype) -> Zoo:
    zoo = inputs.computing_in(zoo, dtype)
    return inputs.attacked(zoo, options.attack, run.seed, dtype)
