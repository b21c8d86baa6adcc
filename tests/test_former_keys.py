"""What earlier versions wrote reads as a config of today."""

import importlib
import json
import pathlib

import pytest

from experiments import compare
from experiments.configs import free, panel
from experiments.harness import files
from experiments.harness.same_run import differences
from experiments.inputs.former_keys import NAMES
from experiments.methods import checks, identity, runs

# The keys of each kind of run at commit afca6a3, which need never be made again.
KEYS = json.loads((pathlib.Path(__file__).parent / "golden/keys.json").read_text())


@pytest.mark.parametrize("name", KEYS)
def test_runs_of_an_earlier_commit_are_not_refused_for_keys_it_did_not_have(name):
    """A new key says what it was before (`former_keys`), or makes no difference."""
    config = importlib.import_module(f"experiments.configs.{name}").get_config()
    today = files.flatten(config)
    values = {NAMES.key_today(key): value for key, value in today.items()}
    names = {key: NAMES.key_today(key) for key in KEYS[name]}
    # One that went must be known to have gone: it stays a difference otherwise.
    before = {key: values.get(now, "a value") for key, now in names.items()}
    may_change = compare.MAY_CHANGE if name.startswith("compare") else ()
    may_change += (*runs.ELSEWHERE, *identity.MAY_CHANGE)
    assert not differences(checks.upgraded(before), today, may_change)


@pytest.mark.parametrize(
    ("module", "new"),
    [
        (
            panel,
            (
                "distill.heads",
                "distill.sketch",
                "distill.device_mb",
                "panel.asked_per_image",
                "eval.also",
            ),
        ),
        (free, ("eval.also",)),
    ],
)
def test_keys_that_are_new_are_what_they_were_before(module, new):
    today = files.flatten(module.get_config())
    assert set(new) <= set(today)
    before = {key: value for key, value in today.items() if key not in new}
    assert NAMES.upgraded(before) == today
    assert NAMES.upgraded(today) == today
