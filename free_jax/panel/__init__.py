"""The panel: all teachers describe an image; one network learns to say the same."""

from free_jax.panel.choice import best_teachers, centrality
from free_jax.panel.describe import describe_bank, describer, tempered
from free_jax.panel.distillation import Described, panel_distillation
from free_jax.panel.ragged import answers_of, equal_columns, outputs_of
from free_jax.panel.trust import Trust, rows_of, trust, vote

__all__ = [
    "Described",
    "Trust",
    "answers_of",
    "best_teachers",
    "centrality",
    "describe_bank",
    "describer",
    "equal_columns",
    "outputs_of",
    "panel_distillation",
    "rows_of",
    "tempered",
    "trust",
    "vote",
]
