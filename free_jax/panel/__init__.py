"""The panel: all teachers describe an image; one network learns to say the same."""

from free_jax.panel.choice import best_teachers, centrality
from free_jax.panel.describe import describe_bank, describer, tempered
from free_jax.panel.distillation import Described, panel_distillation
from free_jax.panel.trust import Trust, rows_of, trust, vote

__all__ = [
    "Described",
    "Trust",
    "best_teachers",
    "centrality",
    "describe_bank",
    "describer",
    "panel_distillation",
    "rows_of",
    "tempered",
    "trust",
    "vote",
]
