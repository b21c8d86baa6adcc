"""What earlier versions wrote reads as a config of today."""

import pytest

from experiments.configs import free, panel
from experiments.harness import files
from experiments.inputs.former_keys import NAMES


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
