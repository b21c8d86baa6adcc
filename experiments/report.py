"""Makes the page of a finished run anew.

    python experiments/report.py --workdir=DIR

A run writes its ``report.html`` itself; this is for runs of earlier versions, and for
those that were made where a package for the page was missing.  ``--zoo=DIR`` names the
converted zoo of a panel's run that kept no names.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

from experiments.evaluation import run_page, samples  # noqa: E402
from experiments.harness import page, results, same_run  # noqa: E402
from experiments.inputs import former_keys  # noqa: E402
from free_jax import load_zoo  # noqa: E402
from free_jax.errors import InputError  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (2 for bad input)."""
    parser = argparse.ArgumentParser(description="Makes the page of a finished run.")
    parser.add_argument("--workdir", required=True, help="a finished run")
    parser.add_argument("--zoo", default="", help="its converted zoo, for names")
    args = parser.parse_args(arguments)
    folder = pathlib.Path(args.workdir).expanduser()
    try:
        if not (folder / results.RESULT_FILE).is_file():
            raise InputError(
                f"--workdir={args.workdir}: no {results.RESULT_FILE} in it; give the "
                "working directory of a finished run"
            )
        sample = samples.read(folder)
        if sample is None:
            sample = samples.of_former(folder, _names(folder, args.zoo))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not run_page.write(folder, sample, upgrade=former_keys.NAMES.upgraded):
        return 1
    print(f"written: {folder / page.PAGE_FILE}")
    return 0


def _names(folder: pathlib.Path, zoo: str) -> samples.Names:
    """Of the zoo that is given, or that the run's config names and is there."""
    if not zoo:
        config = same_run.read_config(folder, former_keys.NAMES.upgraded)
        zoo = str(config.get("zoo", {}).get("path", ""))
        if not (pathlib.Path(zoo) / "zoo.json").is_file():
            return samples.Names((), (), ())
    return samples.names_of(load_zoo(zoo))


if __name__ == "__main__":
    sys.exit(main())
