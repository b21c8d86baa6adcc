"""Data-free meta-learning: pre-trained classifiers in, a few-shot learner out."""

from free_jax import (
    algorithms,
    alignment,
    augment,
    episodes,
    evaluation,
    fusion,
    heads,
    initialization,
    inversion,
    memory,
    metalearning,
    models,
    objectives,
    panel,
    parallel,
    pretraining,
    replay,
    scenes,
    zoo,
)
from free_jax.architecture import Architecture, architecture
from free_jax.episodes import balanced_labels, sample_episode
from free_jax.errors import InputError
from free_jax.inversion import Adversary, Objective, meta_generator, pixel_inverter
from free_jax.metalearning import maml, protonet
from free_jax.model_io import load_model, save_model
from free_jax.parallel import make_mesh, map_tasks
from free_jax.types import Episode, ImageBank, Recovered, Teachers
from free_jax.zoo import Zoo, ZooGroup, load_zoo, save_zoo, take

__all__ = [
    "Adversary",
    "Architecture",
    "Episode",
    "ImageBank",
    "InputError",
    "Objective",
    "Recovered",
    "Teachers",
    "Zoo",
    "ZooGroup",
    "algorithms",
    "alignment",
    "architecture",
    "augment",
    "balanced_labels",
    "episodes",
    "evaluation",
    "fusion",
    "heads",
    "initialization",
    "inversion",
    "load_model",
    "load_zoo",
    "make_mesh",
    "maml",
    "map_tasks",
    "memory",
    "meta_generator",
    "metalearning",
    "models",
    "objectives",
    "panel",
    "parallel",
    "pixel_inverter",
    "pretraining",
    "protonet",
    "replay",
    "sample_episode",
    "save_model",
    "save_zoo",
    "scenes",
    "take",
    "zoo",
]
