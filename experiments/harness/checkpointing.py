"""Checkpoints that survive kills, damage and full disks: a thin layer over Orbax.

Orbax commits a checkpoint by renaming its folder, so a killed save leaves no
half-checkpoint under a step's name.  It does not notice damage done afterwards (a
flipped bit restores silently), so every checkpoint carries a digest of its files,
written before the commit and verified before the restore.
"""

import errno
import json
import logging
import pathlib
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from experiments.harness import contents as contents_lib
from experiments.harness import files, hosts
from experiments.harness.same_run import differences, noted
from free_jax.errors import InputError
from free_jax.types import PyTree

FORMAT = 1
DIGEST_FILE = "digest.json"


class Checkpoints:
    """The checkpoints of one run, under ``<workdir>/checkpoints``.

    Saving is asynchronous: `save` returns once the state is copied to the host, so the
    next step may donate it.  An error in the background is raised by the next call.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        config: Any = None,
        may_change: tuple[str, ...] = (),
        upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
        keep: int = 2,
        save_every_steps: int | None = None,
        save_every_secs: float | None = None,
        made_in: epath.PathLike | None = None,
    ):
        """Opens or makes the folder.

        Args:
          workdir: the run's working directory.
          config: kept with each checkpoint, and compared before a restore.
          may_change: its keys that may differ, as in `claim_workdir`.
          upgrade: the flat config of an earlier version's run as it reads today.
          keep: how many checkpoints to keep; at least 2, so that one may be damaged.
          save_every_steps: `due` at multiples of this.
          save_every_secs: `due` when the last save is this long ago, by the clock of
            process 0.
          made_in: the directory that was claimed, where it is another one.
        """
        if keep < 2:
            raise InputError(f"checkpoint.keep={keep}: keep at least 2")
        logging.getLogger("absl").addFilter(_not_from_orbax)
        self._workdir = epath.Path(workdir)
        self._folder = self._workdir / "checkpoints"
        self._remote = "://" in str(self._folder)
        if not self._remote:
            self._folder = epath.Path(self._folder.expanduser().resolve())
        self._every_steps = save_every_steps
        self._every_secs = save_every_secs
        self._last_save = self._last_asked = time.monotonic()
        self._ask_at = 0
        self._config = {} if config is None else files.flatten(config)
        self._may_change = may_change
        self._upgrade = upgrade
        # A copied checkpoint is known by what its run was made from.
        here = noted(made_in or workdir) if hosts.is_writer() else None
        self._contents: contents_lib.Noted = hosts.agreed(here)
        self._step: int | None = None
        self._manager = ocp.CheckpointManager(
            self._folder,
            item_names=("state", "extra"),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            ),
        )

    def due(self, step: int) -> bool:
        """Whether the cadence asks for a save after `step`.

        Every process must call, at every step.
        """
        if self._every_steps and step % self._every_steps == 0:
            return True
        if not self._every_secs or step < self._ask_at:
            return False
        now = time.monotonic()
        by_time = now - self._last_save >= self._every_secs
        if not hosts.are_many():
            return by_time
        # Agreeing costs a message and waits for the device, so it is done about once
        # a second, however short a step is.
        seconds = max(now - self._last_asked, 1e-3)
        asked = max(self._ask_at, step - 1)
        by_time, self._ask_at = hosts.agreed(
            [by_time, step + max(1, int((step - asked) / seconds))]
        )
        self._last_asked = now
        return by_time

    def save(
        self, step: int, state: PyTree, extra: dict[str, Any], *, force: bool = False
    ) -> bool:
        """Saves if due, or if `force`; returns whether it did.

        Write the metrics of `step` before: what a checkpoint covers is then on disk.

        Args:
          step: number of finished steps.
          state: pytree of arrays (typed PRNG keys allowed).
          extra: JSON values to get back with the state, such as the best score so far.
          force: save even if not due; a step already saved is never saved again.
        """
        if not (force or self.due(step)):
            return False
        self.wait()
        if step in self._manager.all_steps():
            return False
        self._step = step
        record = {
            "format": FORMAT,
            "config": self._config,
            "contents": self._contents,
            "layout": _layout(state),
            "extra": extra,
        }
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    extra=ocp.args.JsonSave(files.to_plain(record)),
                ),
                force=True,
            )
        except Exception as error:
            self._explain(error)
            raise
        self._last_save = time.monotonic()
        return True

    def restore_latest(
        self, abstract_state: PyTree
    ) -> tuple[PyTree, int, dict[str, Any]] | None:
        """Restores the newest sound checkpoint.

        A damaged one is reported, moved to ``<workdir>/damaged_checkpoint_<step>``, and
        the one before it is used.

        Args:
          abstract_state: the state, or its shapes and dtypes (`jax.eval_shape`), with
            shardings where they matter.

        Returns:
          ``(state, step, extra)``, or None where nothing was saved yet.

        Raises:
          InputError: a sound checkpoint holds another state, or none is sound.
        """
        self.wait()
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            problem = hosts.agreed(self._damage(step) if hosts.is_writer() else None)
            if problem is None:
                return self._restore(step, abstract_state)
            self._set_aside(step, problem)
        if steps:
            raise InputError(
                f"no sound checkpoint is left in {self._folder}; they were moved to "
                f"{self._workdir}/damaged_checkpoint_*; run again to start over"
            )
        return None

    def wait(self) -> None:
        """Returns when the last save is on disk."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._explain(error)
            raise

    def close(self) -> None:
        """Waits for the last save and frees the threads."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _restore(self, step: int, abstract: PyTree) -> tuple[PyTree, int, dict]:
        args = ocp.args
        composite = args.Composite(extra=args.JsonRestore())
        record = self._manager.restore(step, args=composite)["extra"]
        before = self._upgrade(record.get("config", {}))
        # Where things are may change; what they hold was compared at the claim.
        free = {key for known in self._contents.values() for key in known["keys"]}
        may_change = (*self._may_change, *free)
        others = contents_lib.contradict(record.get("contents", {}), self._contents)
        found = [
            differences({"format": record.get("format")}, {"format": FORMAT}),
            differences(before, self._config, may_change) if before else "",
            *others,
            differences(record.get("layout", {}), _layout(abstract), limit=5),
        ]
        if any(found):
            raise InputError(
                f"checkpoint {self._folder / str(step)} holds another state or was "
                f"written by another version: {', '.join(filter(None, found))}; "
                "use another --workdir, or the code and config that wrote it"
            )
        composite = args.Composite(state=args.StandardRestore(abstract))
        state = self._manager.restore(step, args=composite)["state"]
        return state, step, record["extra"]

    def _seal(self) -> None:
        """Writes the digest; runs in Orbax's thread, just before the commit."""
        if not hosts.is_writer() or self._remote:
            return
        for folder in pathlib.Path(self._folder).iterdir():
            if folder.name.split(".")[0] == str(self._step):
                files.write_json(folder / DIGEST_FILE, _digest(folder))

    def _damage(self, step: int) -> str | None:
        if self._remote:  # object stores verify their own checksums
            return None
        folder = pathlib.Path(self._folder) / str(step)
        try:
            expected = json.loads((folder / DIGEST_FILE).read_text())
        except (OSError, ValueError):
            return "no valid digest, so it was not written to its end"
        found = _digest(folder)
        for name, value in expected.items():
            if found.get(name) != value:
                return f"{name} is {'altered' if name in found else 'missing'}"
        return None

    def _set_aside(self, step: int, problem: str) -> None:
        target = self._workdir / f"damaged_checkpoint_{step}"

        def move() -> None:
            if target.exists():
                target.rmtree()
            (self._folder / str(step)).rename(target)
            print(
                f"warning: checkpoint {step} is damaged ({problem}); moved to {target},"
                " using the one before",
                file=sys.stderr,
            )

        hosts.first_only(move)
        self._manager.reload()

    def _explain(self, error: BaseException) -> None:
        """Raises a clear error if the disk is full, and frees the unfinished save."""
        if not _disk_is_full(error):
            return
        if hosts.is_writer():
            for folder in self._folder.glob("*.orbax-checkpoint-tmp*"):
                folder.rmtree(missing_ok=True)
        # Orbax forgets an old checkpoint when it starts a new one, and deletes it when
        # that is committed: after a failure the oldest is still there.
        self._manager.reload()
        kept = sorted(self._manager.all_steps())
        raise InputError(
            f"the disk is full: checkpoint {self._step} could not be written to "
            f"{self._folder} (checkpoints kept: {kept or 'none'}); free some space and "
            "run the same command to continue"
        ) from None


def _digest(folder: pathlib.Path) -> dict[str, list[int]]:
    """Size and CRC-32 of every file of a checkpoint that Orbax reads."""
    return {
        str(file.relative_to(folder)): [file.stat().st_size, _crc(file)]
        for file in sorted(folder.rglob("*"))
        # Orbax rewrites its own metadata and marker files around the commit; they
        # carry no state.
        if file.parent != folder
        and file.is_file()
        and "commit_success" not in file.name
    }


def _crc(file: pathlib.Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _layout(state: PyTree) -> dict[str, str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{leaf.dtype}{list(leaf.shape)}"
        )
        for path, leaf in leaves
    }


def _disk_is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # TensorStore reports system errors as text only.
        if "No space left on device" in str(error) or "quota exceeded" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _not_from_orbax(record: logging.LogRecord) -> bool:
    # What Orbax logs as errors it also raises, hundreds of lines later.
    return "orbax" not in record.pathname
