"""What a user may choose of a distillation."""

from typing import Annotated, Literal, NamedTuple

from free_jax import augment
from free_jax.options import AtLeast, Named, Positive, adam

Mix = Literal["none", "mixup", "cutmix"]


class DistillOptions(NamedTuple):
    """The distillation of a panel's answers into one model.

    Attributes:
      optimizer: of the model.
      cosine: let its rate decay to zero over all steps.
      batch_size: images a step.
      ghost_batches: parts of a batch that are normalised each by itself, which a mesh
        splits over devices.
      temperature: of both softmaxes.
      crop_padding: largest random shift in pixels; teachers described the image
        unmoved.
      edges: what a shift brings in.
      flip: mirror half of the time.
      mix: blend pairs of images and their answers.
      similarity: weight of matching cosines between images.
      heads: outputs that are trained: every "teacher"'s own, or one for each "class",
        shared by the teachers that know it.
      device_mb: images and answers of so many megabytes are kept on the device, and
        more on the host, from which the batches of coming steps are sent ahead.
      fit_images: afterwards batch norm and descriptions are fitted to that many images
        most like real ones; 0 (and inversions from noise) leaves them as trained.
      whitening: of descriptions; smaller is more, 0 is none.
      sketch: length of descriptions, a random sketch of what all heads say; 0: all.
    """

    optimizer: Named = adam(1e-2)
    cosine: bool = True
    batch_size: Annotated[int, AtLeast(1)] = 128
    ghost_batches: Annotated[int, AtLeast(1)] = 1
    temperature: Annotated[float, Positive()] = 2.0
    crop_padding: Annotated[int, AtLeast(0)] = 0
    edges: augment.Edges = "black"
    flip: bool = True
    mix: Mix = "none"
    similarity: float = 0.0
    heads: Literal["teacher", "class"] = "teacher"
    device_mb: Annotated[int, AtLeast(0)] = 1024
    fit_images: Annotated[int, AtLeast(0, "0 is none")] = 4000
    whitening: Annotated[float, AtLeast(0, "0 is none")] = 0.5
    sketch: Annotated[int, AtLeast(0, "0 is none")] = 0
