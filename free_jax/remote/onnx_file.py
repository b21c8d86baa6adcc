"""A classifier in an .onnx file, run by ONNX Runtime as a black box."""

import asyncio
import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from free_jax.errors import InputError
from free_jax.remote.answers import EndpointSpec, check


class OnnxFile:
    """A `Client` for a model with one image input; its first output is the answer."""

    def __init__(
        self, spec: EndpointSpec, file: Any, *, max_batch: int = 256, in_flight: int = 1
    ):
        """Reads nothing yet.

        Args:
          spec: what the model is declared to be.
          file: path of the model.
          max_batch: images a call.
          in_flight: calls at once, each on a thread of its own.
        """
        self.spec = check(spec)
        self.max_batch, self.in_flight = max_batch, in_flight
        self._file, self._digest = pathlib.Path(file).expanduser(), ""
        self._session: Any = None

    @property
    def card(self) -> EndpointSpec:
        """The former name of `spec`."""
        return self.spec

    @property
    def identity(self) -> str:
        """Name, a digest of the file, and output."""
        return json.dumps(
            [self.spec.name, self._digest, self.spec.output, self.spec.digits]
        )

    async def open(self) -> None:
        """See `Client.open`."""
        if self._session is None:
            self._session = await asyncio.to_thread(self._load)

    async def ask(self, images: np.ndarray) -> np.ndarray:
        """See `Client.ask`."""
        if self._nchw:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        name = self._session.get_inputs()[0].name
        answer = await asyncio.to_thread(self._session.run, None, {name: images})
        return np.asarray(answer[0])

    async def close(self) -> None:
        """See `Client.close`."""
        self._session = None

    def _load(self) -> Any:
        import onnxruntime

        where = f"endpoint {self.spec.name}: {self._file}"
        if not self._file.is_file():
            raise InputError(f"{where}: no such file")
        content = self._file.read_bytes()
        self._digest = hashlib.blake2b(content, digest_size=8).hexdigest()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # Several teachers run at once instead.
        try:
            session = onnxruntime.InferenceSession(
                content, options, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:
            why = str(error).splitlines()[0][:200]
            raise InputError(f"{where}: no model that can be run ({why})") from None
        tensor = session.get_inputs()[0]
        h, w, c = self.spec.image_shape
        # Sizes that are not fixed are None or names.
        sizes = [s if isinstance(s, int) else None for s in tensor.shape]

        def fits(*wanted: int) -> bool:
            return len(sizes) == 4 and all(
                have in (None, want)
                for have, want in zip(sizes[1:], wanted, strict=True)
            )

        self._nchw = fits(c, h, w)
        if tensor.type != "tensor(float)" or not (self._nchw or fits(h, w, c)):
            raise InputError(
                f"{where}: takes {tensor.type} of shape {tensor.shape}, not float "
                f"images of {h}x{w}x{c}; correct image_size"
            )
        outputs = session.get_outputs()[0].shape
        classes = outputs[-1] if outputs else None
        if (
            self.spec.output != "label"
            and isinstance(classes, int)
            and classes != self.spec.num_classes
        ):
            raise InputError(
                f"{where}: has {classes} outputs but "
                f"{self.spec.num_classes} class names are given"
            )
        if sizes[0] == 1:
            self.max_batch = 1
        elif sizes[0] is not None:
            raise InputError(
                f"{where}: takes exactly {sizes[0]} images at once; export it with a "
                "free batch dimension"
            )
        return session
