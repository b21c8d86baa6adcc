"""A trained model of any method and a few labelled images: what are these pictures?

`fit` is given what `load_model` returns and a support set; `predict` scores pictures in
chunks, and `classify` is both at once::

    network, variables, notes = load_model("runs/mine/model.npz")
    scores = classify(network, variables, notes, support, labels, pictures)

How a model describes pictures depends on what it holds.  One that was distilled from a
panel has ``descriptions``, and says what the panel would.  A meta-learned one has
features, normalised by the support set's moments, and adapts as it was trained to: how
is in its notes.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jaxtyping import Array, Float, Int, Num

from free_jax import images as images_lib
from free_jax import nouns
from free_jax.errors import InputError
from free_jax.fewshot import heads, learners
from free_jax.fewshot import labels as labels_lib
from free_jax.fewshot.learners import LearnerOptions
from free_jax.panel import model as distilled
from free_jax.types import PyTree
from free_jax.zoo.network import Network

HEADS = ("centroid", "ridge", "soft_kmeans", "balanced_kmeans", "adapt")
# They see all pictures at once: with others, the answer about one may change.
_TRANSDUCTIVE = ("soft_kmeans", "balanced_kmeans")
_SCALE = 10.0  # Of cosines, to make logits.


class Predictor(NamedTuple):
    """A model fitted to a support set; for `predict`.

    Attributes:
      head: one of `HEADS`.
      way: number of classes.
      is_inductive: each picture is treated alone; else all of them together.
      size: images that `encode` takes at once, so that it is compiled once.
      encode: ``images [size, h, w, c] -> [size, d]``, descriptions or logits.
      decide: ``[n, d] -> [n, way]``, scores that sum to one.
    """

    head: str
    way: int
    is_inductive: bool
    size: int
    encode: Callable[[Any], jax.Array]
    decide: Callable[[Any], jax.Array]


def default_head(variables: PyTree) -> str:
    """The head of a model where none is asked for: "centroid" or "adapt"."""
    return "centroid" if "descriptions" in variables else "adapt"


def fit(
    network: Network,
    variables: PyTree,
    notes: Mapping[str, Any],
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Int[Array | np.ndarray, " n"],
    *,
    way: int | None = None,
    head: str | None = None,
    size: int = 64,
) -> Predictor:
    """Fits a trained model to a support set.

    Scores are a softmax over classes, of ten times the cosine to class means
    ("centroid", "soft_kmeans", "balanced_kmeans"), of ten times ridge regression's
    answer, of the adapted cosines times the scale that they were adapted with (a
    distilled model's "adapt"), or of the adapted model's own logits (a meta-learned
    one's).

    Args:
      network: as `load_model` returns it.
      variables: as `load_model` returns them.
      notes: as `load_model` returns them; ``notes["learner"]`` says how to adapt.
      images: support set, of any size; integers from 0 to 255 or floats in [0, 1].
      labels: in [0, way), each at least once.
      way: number of classes; None: as many as labels name.
      head: "centroid", "ridge", "soft_kmeans" (transductive: it sees all pictures at
        once), "balanced_kmeans" (the same, where all classes have about equally many
        pictures; half of what evens them out is added to ten times the cosine), or
        "adapt", the model's own adaptation by gradient (or to prototypes); None:
        "centroid" for a distilled model, else "adapt".
      size: pictures at once.

    Raises:
      InputError: the support set is no few-shot task, the model cannot do what is
        asked, or it was made by a later version.
    """
    images, labels = _batch(images, "support set"), _array(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"labels are {labels.dtype}: give integers from 0 to way - 1, for names "
            "their places in a list of all"
        )
    if way is None:
        way = int(np.max(labels)) + 1 if len(labels) else 0
    head = head or default_head(variables)
    labels = _checked(images, labels, way, head, size)
    given = images_lib.checked(images, "support set")
    support = images_lib.fit_to(given, network.image_shape)
    try:
        if head == "adapt":
            return _adapted(network, variables, notes, support, labels, way, size)
        return _by_head(network, variables, support, labels, way, head, size)
    except FlaxError as error:
        raise InputError(
            f"the model's weights do not fit its architecture {network.name} "
            f"({' '.join(str(error).split())}); it may be of a later version"
        ) from None


def _array(values: Any) -> Any:
    """An array as it is; a list becomes one."""
    return values if hasattr(values, "dtype") else np.asarray(values)


def _batch(values: Any, where: str) -> Any:
    """`_array` of images [n, h, w, c]; one without an axis of images is refused."""
    try:
        images = _array(values)
    except ValueError:  # Of NumPy, about a list of pictures of unequal sizes.
        raise InputError(f"{where}: the images differ in size; resize them") from None
    if images.ndim != 4:
        raise InputError(
            f"{where}: images have the shape {tuple(images.shape)}, expected (n, "
            "height, width, channels); one image alone is image[None], grey ones "
            "images[..., None]"
        )
    return images


def predict(
    predictor: Predictor, chunks: Iterable[Num[Array | np.ndarray, "_ h w c"]]
) -> Float[np.ndarray, "n way"]:
    """Scores pictures that come in chunks, as they come.

    Args:
      predictor: from `fit`.
      chunks: of at most ``predictor.size`` pictures each; see `fit` for their values.

    Returns:
      A row of scores for each picture, which sum to one.

    Raises:
      InputError: pictures of another shape or range, or scores that are not finite.
    """
    after = predictor.decide if predictor.is_inductive else lambda rows: rows
    rows = _rows(
        lambda x: after(predictor.encode(x)),
        (
            np.asarray(images_lib.checked(_batch(x, "pictures"), "pictures"))
            for x in chunks
        ),
        predictor.size,
    )
    if not len(rows):
        return np.zeros((0, predictor.way), np.float32)
    scores = rows if predictor.is_inductive else np.asarray(predictor.decide(rows))
    if not np.isfinite(scores).all():
        raise InputError(
            f"the model's scores are not finite with head {predictor.head!r}; try "
            "another one, or train the model with a smaller rate"
        )
    return scores


def classify(
    network: Network,
    variables: PyTree,
    notes: Mapping[str, Any],
    images: Num[Array | np.ndarray, "n h w c"],
    labels: Int[Array | np.ndarray, " n"],
    pictures: Num[Array | np.ndarray, "m i j c"],
    *,
    head: str | None = None,
    size: int = 64,
) -> Float[np.ndarray, "m way"]:
    """Scores pictures by a trained model and a few labelled images.

    Each picture is treated alone, but for the heads "soft_kmeans" and
    "balanced_kmeans".

    Args:
      network: as `load_model` returns it.
      variables: as `load_model` returns them.
      notes: as `load_model` returns them.
      images: support set, see `fit`.
      labels: of the support set.
      pictures: to be classified.
      head: see `fit`.
      size: pictures at once.

    Returns:
      A row of scores for each picture, which sum to one; see `fit` for what they are.

    Raises:
      InputError: as `fit` and `predict`.
    """
    fitted = fit(network, variables, notes, images, labels, head=head, size=size)
    return predict(fitted, _chunks(np.asarray(_batch(pictures, "pictures")), size))


def _checked(images: Any, labels: Any, way: int, head: str, size: int) -> jax.Array:
    """Labels of a support set that is a few-shot task, as int32."""
    if head not in HEADS:
        raise InputError(f"head {head!r}: choose among {', '.join(HEADS)}")
    if size < 1:
        raise InputError(f"{size} pictures at once: give at least 1")
    if len(images) != len(labels):
        raise InputError(f"{len(images)} support images and {len(labels)} labels")
    if way < 2:
        raise InputError(
            f"the support set names {nouns.count(way, 'class', 'classes')}; give "
            "at least 2"
        )
    found = np.asarray(labels_lib.checked(np.asarray(labels), way, "support set"))
    missing = np.flatnonzero(np.bincount(found, minlength=way) == 0)
    if missing.size:
        raise InputError(f"support set: class {missing[0]} of {way} has no image")
    return jnp.asarray(found, jnp.int32)


def _chunks(images: np.ndarray, size: int) -> Iterable[np.ndarray]:
    return (images[i : i + size] for i in range(0, len(images), size))


def _rows(
    run: Callable[[Any], jax.Array], chunks: Iterable[np.ndarray], size: int
) -> np.ndarray:
    """What a program of one size says about chunks of at most that."""
    rows = []
    for chunk in chunks:
        padding = np.zeros((size - len(chunk), *chunk.shape[1:]), chunk.dtype)
        rows.append(np.asarray(run(np.concatenate([chunk, padding])))[: len(chunk)])
    return np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)


def _encoder(network: Network, state: PyTree, rows_of: Callable) -> Callable:
    """``images -> rows``, compiled; weights are handed over, not built in."""
    run = jax.jit(
        lambda state, x: rows_of(state, images_lib.fit_to(x, network.image_shape))
    )
    return lambda images: run(state, images)


def _by_head(
    network: Network,
    variables: PyTree,
    support: jax.Array,
    labels: jax.Array,
    way: int,
    head: str,
    size: int,
) -> Predictor:
    """A head on descriptions, as in the final table of a run."""
    if "descriptions" in variables:
        _check_descriptions(variables)
        state = variables
        encode = _encoder(network, state, lambda v, x: distilled.embed(network, v, x))
    else:
        network.check_gives("features", f"the head {head!r}", "choose the head 'adapt'")
        state = _normalised_by(network, variables, support)
        encode = _encoder(
            network, state, lambda v, x: network.apply(v, x, features=True)
        )
    rows = _rows(encode, _chunks(np.asarray(support), size), size)
    classify_rows = {
        "centroid": heads.centered(heads.nearest_centroid(way), "none"),
        "ridge": heads.centered(heads.ridge(way), "none"),
        "soft_kmeans": heads.centered(heads.soft_kmeans(way), "episode"),
        "balanced_kmeans": heads.centered(
            heads.soft_kmeans(way, sharpness=2 * _SCALE, prior="balanced"), "episode"
        ),
    }[head]
    decide = jax.jit(
        lambda rows, said: jax.nn.softmax(_SCALE * classify_rows(rows, labels, said))
    )
    return Predictor(
        head, way, head not in _TRANSDUCTIVE, size, encode, lambda x: decide(rows, x)
    )


def _normalised_by(network: Network, variables: PyTree, support: jax.Array) -> PyTree:
    """Variables whose batch norm has the support set's moments, if it has none."""
    if variables.get("batch_stats"):
        return variables
    moments = jax.jit(
        lambda v, x: network.apply_with_moments(v, x, norm="batch", features=True)[1]
    )
    return {**variables, "batch_stats": moments(variables, support)}


def _check_descriptions(variables: PyTree) -> None:
    missing = {"weights", "temperature"} - set(variables["descriptions"])
    if missing:
        raise InputError(
            f"the model's descriptions lack {' and '.join(sorted(missing))}; it is "
            "damaged or of another version"
        )


def _adapted(
    network: Network,
    variables: PyTree,
    notes: Mapping[str, Any],
    support: jax.Array,
    labels: jax.Array,
    way: int,
    size: int,
) -> Predictor:
    """The model's own adaptation, as it was tested."""
    noted = notes.get("learner") or {}
    # Files of earlier versions hold fewer, or other names for what only training reads.
    known = {name: noted[name] for name in LearnerOptions._fields if name in noted}
    options = LearnerOptions(**known)
    rate = options.test_lr or options.inner_lr
    if "descriptions" in variables:
        _check_descriptions(variables)
        scale = float(noted.get("head_scale", _SCALE))
        settings: dict[str, Any] = {
            "num_steps": options.test_steps,
            "learning_rate": rate,
            "scale": scale,
        }
        adapt = jax.jit(
            lambda v, x: distilled.adapt(network, v, x, labels, way=way, **settings)
        )
        state = adapt(variables, support)
        encode = _encoder(
            network, state, lambda v, x: scale * distilled.classify(network, v, x)
        )
    else:
        learner = _learner(network, options, rate, way)
        state = jax.jit(learner.adapt)(variables["params"], support, labels)
        encode = _encoder(
            network,
            state,
            # Of fewer classes than outputs, the others mean nothing.
            lambda v, x: learner.predict(v, x, norm="running")[:, :way],
        )
    return Predictor("adapt", way, True, size, encode, jax.jit(jax.nn.softmax))


def _learner(
    network: Network, options: LearnerOptions, rate: float, way: int
) -> learners.MetaLearner:
    """The learner that a meta-learned model was trained for, as it is tested."""
    if options.kind not in get_args(LearnerOptions.__annotations__["kind"]):
        raise InputError(
            f"the model adapts by {options.kind!r}, which this version does not know; "
            "choose another head"
        )
    if options.kind == "protonet":
        return learners.protonet(network, way=way)
    if way > network.num_classes:
        raise InputError(
            f"the support set names {way} classes and the model has outputs for "
            f"{network.num_classes}; choose another head (centroid) or give fewer"
        )
    return learners.maml(
        network,
        inner_lr=rate,
        num_steps=options.test_steps,
        first_order=options.first_order,
        head_only=options.kind == "anil",
    )
