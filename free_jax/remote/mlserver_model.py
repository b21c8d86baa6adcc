"""What MLServer runs behind the Open Inference Protocol v2: a file, or a teacher."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import onnxruntime
from mlserver import MLModel, types, utils
from mlserver.codecs import NumpyCodec

from free_jax import zoo as zoo_lib


class Classifier(MLModel):
    """Answers requests by logits, once `load` has set what gives them."""

    _logits: Callable[[np.ndarray], np.ndarray]

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """Logits of normalised images [n, h, w, c]."""
        tensor = payload.inputs[0]
        # The codec builds Python lists on the way.
        images = np.asarray(tensor.data.root, np.float32).reshape(tensor.shape)
        logits = await asyncio.to_thread(self._logits, images)
        return types.InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[NumpyCodec.encode_output("logits", logits)],
        )


class OnnxModel(Classifier):
    """The file of ``parameters.uri`` of ``model-settings.json``."""

    async def load(self) -> bool:
        """Reads the file."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        file = await utils.get_model_uri(self.settings)
        session: Any = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )
        self._logits = lambda images: session.run(None, {"images": images})[0]
        return True


class ZooModel(Classifier):
    """A teacher of any network, run by JAX: the only one of a converted zoo.

    ``parameters.uri`` is the zoo.
    """

    async def load(self) -> bool:
        """Reads the teacher."""
        (group,) = zoo_lib.load_zoo(await utils.get_model_uri(self.settings)).groups
        teacher, network = zoo_lib.take(group.teachers, 0), group.network
        channels = network.image_shape[-1]
        # Clients normalise.
        network = dataclasses.replace(
            network, mean=(0.0,) * channels, std=(1.0,) * channels
        )
        apply = jax.jit(network.apply)

        def logits(images: np.ndarray) -> np.ndarray:
            # Requests hold any number of images; one program serves many numbers.
            room = 1 << (len(images) - 1).bit_length()
            filled = np.resize(images, (room, *images.shape[1:]))
            return np.asarray(apply(teacher.variables, filled))[: len(images)]

        self._logits = logits
        return True
