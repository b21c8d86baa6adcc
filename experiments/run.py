r"""Runs one experiment: python experiments/run.py --config=FILE.py[:VARIANT] [...].

From a folder of models to one few-shot learner; a minute's try, without any files; and
what a run would need, without running it:

  python experiments/run.py --config=experiments/configs/panel.py \
      --workdir=runs/mine --config.zoo.path=MODELS
  python experiments/run.py --config=experiments/configs/panel.py:smoke
  python experiments/run.py --config=experiments/configs/panel.py \
      --config.zoo.path=MODELS --check

--workdir=DIR            where to write; the same command continues a stopped run
--config.KEY=VALUE       overrides one key of the config, such as --config.seed=1,
                         "--config.eval.shots=(1,5)" or, where a function is named,
                         "--config.distill.optimizer=adam(learning_rate=0.001)"
--check                  looks at everything that the run needs, and at nothing else:
                         nothing is computed or written, and endpoints are asked what
                         they are only; exit status 2 and one line say what a run would
                         be refused for
--distributed=auto|on|off  several hosts; with --coordinator=HOST:PORT,
                         --num_processes=N, --process_id=I where no cluster tells them
--compilation_cache=DIR|off
--help                   this, and the configs there are; with --config=FILE.py instead
                         every key of that config, its value there, what may stand and
                         what it does
"""

import errno
import importlib
import os
import pathlib
import subprocess
import sys
import textwrap
import types
from collections.abc import Sequence
from typing import Any

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

import jax  # noqa: E402

from experiments.harness import (  # noqa: E402
    config_files,
    files,
    metrics,
    results,
    sections,
)
from experiments.inputs import command_line  # noqa: E402
from free_jax.errors import InputError  # noqa: E402

# Values of config.run; each module has main(config, workdir) -> dict, and
# check(config, workdir) -> what --check looked at and found.
RUNS = {
    "meta_train": "experiments.train",
    "pretrain": "experiments.pretrain_zoo",
    "compare": "experiments.compare",
}


def main(argv: Sequence[str]) -> int:
    """Runs a command line and returns the exit status."""
    if {"-h", "--help"} & set(argv[1:]):
        return show_help([item for item in argv if item not in ("-h", "--help")])
    try:
        command = command_line.parse(argv)
        config: Any = command.config
        set_host_devices(config.get("host_devices", 1))
        if config.get("zoo", {}).get("apis"):
            # With it, programs that wait for the host can wait for each other.
            jax.config.update("jax_cpu_enable_async_dispatch", False)
        set_compilation_cache(command.compilation_cache)
        module = find_run(command.config)
        if command.check:
            for name, found in module.check(command.config, command.workdir):
                print(f"{name:<14}  {found}")
            return 0
        start_distributed(command)
        if jax.process_index():
            sys.stdout = open(os.devnull, "w")
        print(format_environment(), flush=True)
        outcome = module.main(command.config, command.workdir)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except metrics.RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"error: the disk is full ({error}); what was written before is kept; "
            "free some space and run the same command to continue",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("error: interrupted; the same command continues", file=sys.stderr)
        return 130
    step = (outcome or {}).get("stopped_at")
    if step is not None:
        print(f"stopped at step {step}; resume with the same command", flush=True)
    return 0


def show_help(argv: Sequence[str]) -> int:
    """Says how this is called and, where a config is named, what its keys are."""
    print(__doc__)
    if not any(item.split("=")[0] in ("--config", "-config") for item in argv):
        names = config_files.listed()
        width = max(map(len, names), default=0)
        print(
            "Configs in experiments/configs; each file says more, and its variants:\n"
        )
        print("\n".join(f"  {name:<{width}}  {told}" for name, told in names.items()))
        return 0
    from experiments.methods import checks  # Methods: only where they are asked for.

    try:
        config: Any = command_line.parse([*argv, "--workdir=unused"]).config
        record = checks.record_of(config.run, config.get("algorithm"))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    values = files.flatten(config)
    for row in sections.document(record):
        value = repr(values[row.key]) if row.key in values else row.default
        allowed = f" ({row.allowed})" if row.allowed else ""
        print(f"--config.{row.key}={value}{allowed}")
        print(textwrap.indent(textwrap.fill(" ".join(row.text.split()), 80), "    "))
    return 0


def find_run(config: Any) -> types.ModuleType:
    """Imports the module that ``config.run`` names."""
    name = config.get("run")
    if name not in RUNS:
        raise InputError(f"config.run={name!r}: choose one of {', '.join(RUNS)}")
    return importlib.import_module(RUNS[name])


def set_host_devices(count: int) -> None:
    """Splits the CPU into devices; only works before JAX starts a backend."""
    option = "--xla_force_host_platform_device_count"
    present = os.environ.get("XLA_FLAGS", "")
    if count > 1 and option not in present:
        os.environ["XLA_FLAGS"] = f"{present} {option}={count}".strip()


def set_compilation_cache(folder: str) -> None:
    """Keeps compiled programs between runs, unless `folder` is "off"."""
    if folder == "off":
        return
    home = os.environ.get("FREE_JAX_CACHE", "~/.cache/free_jax")
    folder = folder or os.path.join(home, "xla")
    jax.config.update("jax_compilation_cache_dir", os.path.expanduser(folder))


def start_distributed(command: command_line.Command) -> None:
    """Joins the other processes; "auto" stays alone where there are none."""
    if command.distributed == "off":
        return
    told = {}
    if command.coordinator:
        told = {
            "coordinator_address": command.coordinator,
            "num_processes": command.num_processes or None,
            "process_id": command.process_id if command.process_id >= 0 else None,
        }
    try:
        jax.distributed.initialize(**told)
    except ValueError as error:
        if told:
            raise InputError(
                f"--coordinator={command.coordinator}: {error} Give --num_processes "
                "and --process_id"
            ) from None
        if "coordinator_address" not in str(error):
            raise
        if command.distributed == "on":
            raise InputError(
                f"--distributed=on: no cluster found ({error}) Give --coordinator"
            ) from None


def format_environment() -> str:
    """One line per fact that a reader of the log needs: versions, code, devices."""
    git = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    try:
        code = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        code = ""
    packages = ", ".join(f"{k} {v}" for k, v in results.versions().items())
    devices = ", ".join(sorted({d.device_kind for d in jax.devices()}))
    return (
        f"free_jax {code.strip() or 'unknown'}; {packages}\n"
        f"process {jax.process_index()}/{jax.process_count()}; "
        f"{jax.device_count()} {jax.default_backend()} device(s): {devices}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
