"""What MLServer runs: one ONNX file behind the Open Inference Protocol v2."""

import asyncio
from typing import Any

import numpy as np
import onnxruntime
from mlserver import MLModel, types, utils
from mlserver.codecs import NumpyCodec


class OnnxModel(MLModel):
    """The model of ``parameters.uri`` of ``model-settings.json``."""

    _session: Any

    async def load(self) -> bool:
        """Reads the file."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        file = await utils.get_model_uri(self.settings)
        self._session = onnxruntime.InferenceSession(
            file, options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: types.InferenceRequest) -> types.InferenceResponse:
        """Logits of normalised images [n, h, w, c]."""
        tensor = payload.inputs[0]
        # The codec builds Python lists on the way.
        images = np.asarray(tensor.data.root, np.float32).reshape(tensor.shape)
        (logits,) = await asyncio.to_thread(self._session.run, None, {"images": images})
        return types.InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[NumpyCodec.encode_output("logits", logits)],
        )
