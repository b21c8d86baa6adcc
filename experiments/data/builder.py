"""A TFDS builder of raw image records; it needs no TensorFlow.

Decoding dominates the cost of loading small images, so records hold decoded pixels:
a chunk of one class's images each. Import this module only when data is read: it
imports `tensorflow_datasets`.
"""

import contextlib
import io
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from experiments.data.presets import FOLDER_NAMES

_IMAGES_PER_RECORD = 500
_SECONDS_PER_LINE = 5.0


class ClassFolder(tfds.core.GeneratorBasedBuilder):
    """Images in one folder per class, prepared as array_record files.

    Each data set has a config of its name ("cifar_fs"). TFDS prepares into a temporary
    folder and renames it when complete, so an interrupted preparation is never read.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list] = [
        tfds.core.BuilderConfig(name=name) for name in FOLDER_NAMES
    ]
    # Nothing is downloaded. Without this TFDS looks for a list of checksums, for which
    # it imports a package (importlib_resources) that it does not require.
    url_infos: ClassVar[dict] = {}

    def __init__(
        self,
        *,
        name: str,
        split: str,
        files: Mapping[str, Sequence[pathlib.Path]],
        image_size: int,
        read_image: Callable[[pathlib.Path, int], np.ndarray],
        data_dir: str | os.PathLike,
    ):
        """Initialises the builder; nothing is read yet.

        Args:
          name: one of `presets.FOLDER_NAMES`.
          split: name of the one split to prepare.
          files: image files of each class; the order of classes gives the class ids.
          image_size: height and width of the records' images.
          read_image: decodes one file to uint8 [image_size, image_size, 3].
          data_dir: folder to prepare into.
        """
        self._split, self._files = split, files
        self._size, self._read_image = image_size, read_image
        super().__init__(file_format="array_record", config=name, data_dir=data_dir)

    def _info(self):
        shape = (None, self._size, self._size, 3)
        features = {
            "class_name": tfds.features.Text(),
            "class_id": tfds.features.Scalar(dtype=np.int64),
            "first": tfds.features.Scalar(dtype=np.int64),
            "images": tfds.features.Tensor(
                shape=shape, dtype=np.uint8, encoding="bytes"
            ),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Decoded images, in chunks of one class.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {self._split: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        total = sum(len(files) for files in self._files.values())
        key, done, next_line = 0, 0, time.monotonic() + _SECONDS_PER_LINE
        for class_id, (class_name, files) in enumerate(self._files.items()):
            for first in range(0, len(files), _IMAGES_PER_RECORD):
                chunk = files[first : first + _IMAGES_PER_RECORD]
                images = np.stack([self._read_image(f, self._size) for f in chunk])
                yield (
                    key,
                    dict(
                        class_name=class_name,
                        class_id=class_id,
                        first=first,
                        images=images,
                    ),
                )
                key, done = key + 1, done + len(chunk)
                if time.monotonic() >= next_line:
                    next_line = time.monotonic() + _SECONDS_PER_LINE
                    print(f"  {done}/{total} images", file=sys.stderr, flush=True)

    def prepare(self) -> None:
        """Prepares the split unless it is there, without TFDS's own messages."""
        tfds.display_progress_bar(False)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self.download_and_prepare(download_dir=self.data_path.parent)
        finally:
            tfds.display_progress_bar(True)
