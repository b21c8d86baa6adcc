"""The panel: an image's outputs by all teachers, and one network that learns them."""

from free_jax.panel.aggregate import Aggregated, aggregated, vote
from free_jax.panel.asking import answered_images, ask_jobs, ask_zoo, most_answers
from free_jax.panel.choice import best_teachers, centrality
from free_jax.panel.describe import (
    compiled_describer,
    describe_bank,
    describer,
    tempered,
)
from free_jax.panel.distillation import (
    Described,
    DistillOptions,
    panel_distillation,
)
from free_jax.panel.membership import PanelChoice, choose
from free_jax.panel.options import MetaTraining, PanelOptions, RecoverOptions
from free_jax.panel.ragged import answers_of, columns_of, equal_columns, outputs_of
from free_jax.panel.student import (
    Distilled,
    calibration_images,
    distil,
    distillation,
    statistics_fitter,
)
from free_jax.panel.transfer_set import (
    DescribedZoo,
    Voted,
    asks_some,
    bank_of_classes,
    common_shape,
    describe_zoo,
    joined,
    judge,
    quota_of,
    recover_zoo,
    to_described,
    voted_classes,
)
from free_jax.panel.trust import REVISED, rows_of, trust
from free_jax.panel.verdicts import Trust, verdicts
from free_jax.panel.voices import heard

__all__ = [
    "REVISED",
    "Aggregated",
    "Described",
    "DescribedZoo",
    "DistillOptions",
    "Distilled",
    "MetaTraining",
    "PanelChoice",
    "PanelOptions",
    "RecoverOptions",
    "Trust",
    "Voted",
    "aggregated",
    "answered_images",
    "answers_of",
    "ask_jobs",
    "ask_zoo",
    "asks_some",
    "bank_of_classes",
    "best_teachers",
    "calibration_images",
    "centrality",
    "choose",
    "columns_of",
    "common_shape",
    "compiled_describer",
    "describe_bank",
    "describe_zoo",
    "describer",
    "distil",
    "distillation",
    "equal_columns",
    "heard",
    "joined",
    "judge",
    "most_answers",
    "outputs_of",
    "panel_distillation",
    "quota_of",
    "recover_zoo",
    "rows_of",
    "statistics_fitter",
    "tempered",
    "to_described",
    "trust",
    "verdicts",
    "vote",
    "voted_classes",
]
