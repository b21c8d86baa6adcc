"""The panel: an image's outputs by all teachers, and one network that learns them."""

from free_jax.panel.aggregate import Aggregated, aggregated
from free_jax.panel.asking import answered_images, ask_jobs, ask_zoo, most_answers
from free_jax.panel.choosing_teachers import (
    ChoosingOptions,
    Chosen,
    ZooChoice,
    centrality,
    choose_from_zoo,
    choose_teachers,
)
from free_jax.panel.classifiers import best_teachers
from free_jax.panel.described import Described
from free_jax.panel.distill_options import DistillOptions
from free_jax.panel.distillation import panel_distillation
from free_jax.panel.embed import (
    compiled_embedder,
    embed_bank,
    embedder,
    tempered,
)
from free_jax.panel.membership import PanelChoice, choose
from free_jax.panel.options import MetaTraining, PanelOptions, RecoverOptions
from free_jax.panel.partial_answers import answers_of, num_asked
from free_jax.panel.ragged import columns_of, equal_columns, outputs_of
from free_jax.panel.recovery import common_shape, quota_of, recover_zoo
from free_jax.panel.student import (
    Distilled,
    distil,
    distillation,
    fit_images,
    fits,
    on_device,
    statistics_fitter,
)
from free_jax.panel.transfer_set import (
    DescribedZoo,
    bank_of_classes,
    describe_zoo,
    joined,
    to_described,
)
from free_jax.panel.trust import REVISED, judge, rows_of, trust
from free_jax.panel.verdicts import Trust, verdicts
from free_jax.panel.voices import asks_some, from_silence
from free_jax.panel.votes import Voted, vote, voted_classes

__all__ = [
    "REVISED",
    "Aggregated",
    "ChoosingOptions",
    "Chosen",
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
    "ZooChoice",
    "aggregated",
    "answered_images",
    "answers_of",
    "ask_jobs",
    "ask_zoo",
    "asks_some",
    "bank_of_classes",
    "best_teachers",
    "centrality",
    "choose",
    "choose_from_zoo",
    "choose_teachers",
    "columns_of",
    "common_shape",
    "compiled_embedder",
    "describe_zoo",
    "distil",
    "distillation",
    "embed_bank",
    "embedder",
    "equal_columns",
    "fit_images",
    "fits",
    "from_silence",
    "joined",
    "judge",
    "most_answers",
    "num_asked",
    "on_device",
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
