"""Data-free meta-learning: pre-trained classifiers in, a few-shot learner out."""

from typing import Any

from free_jax import (
    algorithms,
    augment,
    baselines,
    fewshot,
    former_names,
    inversion,
    models,
    objectives,
    panel,
    parallel,
    predictor,
    release,
    zoo,
)
from free_jax.errors import InputError
from free_jax.fewshot import evaluation, heads
from free_jax.fewshot.episodes import balanced_labels, sample_episode
from free_jax.fewshot.learners import maml, protonet
from free_jax.interop.hub import HubOptions, load_zoo
from free_jax.inversion import Adversary, Objective, meta_generator, pixel_inverter
from free_jax.model_io import load_model, save_model
from free_jax.panel import model as distilled
from free_jax.parallel import make_mesh, map_tasks
from free_jax.predictor import classify
from free_jax.types import Episode, ImageBank, Recovered, Teachers
from free_jax.zoo import Zoo, ZooGroup, save_zoo, take
from free_jax.zoo.network import Network, make_network

# The one place that names it: pyproject.toml reads it from here.
__version__ = "0.2.0"

__all__ = [
    "Adversary",
    "Episode",
    "HubOptions",
    "ImageBank",
    "InputError",
    "Network",
    "Objective",
    "Recovered",
    "Teachers",
    "Zoo",
    "ZooGroup",
    "__version__",
    "algorithms",
    "augment",
    "balanced_labels",
    "baselines",
    "classify",
    "distilled",
    "evaluation",
    "fewshot",
    "heads",
    "inversion",
    "load_model",
    "load_zoo",
    "make_mesh",
    "make_network",
    "maml",
    "map_tasks",
    "meta_generator",
    "models",
    "objectives",
    "panel",
    "parallel",
    "pixel_inverter",
    "predictor",
    "protonet",
    "release",
    "sample_episode",
    "save_model",
    "save_zoo",
    "take",
    "zoo",
]

former_names.install()
# Former names of what is above.
Architecture = Network
architecture = make_network


def __getattr__(name: str) -> Any:
    found = former_names.module(name)
    if found is None:
        raise AttributeError(f"module 'free_jax' has no attribute {name!r}")
    return found
