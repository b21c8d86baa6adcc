"""Configs, data, harness and command line of the `free_jax` experiments."""

from importlib.util import find_spec

_NEEDED = (
    *("absl", "array_record", "chex", "matplotlib", "ml_collections"),
    *("PIL", "rich", "tensorflow_datasets"),
)
_missing = [name for name in _NEEDED if find_spec(name) is None]
if _missing:
    raise SystemExit(
        f"error: experiments need {', '.join(_missing)}; run, in the repository: "
        "pip install -c constraints.txt -e '.[experiments]'"
    )
