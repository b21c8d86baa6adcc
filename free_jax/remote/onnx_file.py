"""A classifier in an .onnx file, run by ONNX Runtime as a black box."""

import asyncio
import hashlib
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from free_jax.errors import InputError
from free_jax.remote import metadata, onnx_proto
from free_jax.remote.answers import EndpointSpec, check, sums_to_one
from free_jax.remote.tensors import as_sent

# Types of inputs and outputs, as the runtime and as servers call them.
_TYPES = {
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(uint8)": "UINT8",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(bool)": "BOOL",
    "tensor(string)": "BYTES",
}


class OnnxFile:
    """A `Client` for a model with one image input.

    Several outputs are told apart by name, else by width; only one is computed.
    """

    def __init__(
        self,
        spec: EndpointSpec,
        file: Any,
        *,
        output_name: str = "",
        layout: str = "auto",
        guess_output: bool = False,
        max_batch: int = 256,
        in_flight: int = 1,
    ):
        """Reads nothing yet.

        Args:
          spec: what the model is declared to be.
          file: path of the model; its weights may lie beside it.
          output_name: of the answer, where there are several.
          layout: of the images, nhwc or nchw; "auto" reads it from the input's shape,
            and takes nchw where that fits both.
          guess_output: ``spec.output`` is only an assumption: logits that are found to
            be probabilities are taken as such.
          max_batch: images a call.
          in_flight: calls at once, each on a thread of its own.
        """
        self.spec = check(spec)
        self.max_batch, self.in_flight = max_batch, in_flight
        self._file, self._digest = pathlib.Path(file).expanduser(), ""
        self._named, self._guess = output_name, guess_output
        self._layout = layout
        self._told: metadata.ModelInfo | None = None
        self._output = ""
        self._session: Any = None

    @property
    def card(self) -> EndpointSpec:
        """The former name of `spec`."""
        return self.spec

    @property
    def identity(self) -> str:
        """Name, a digest of the file and of its weights, and output."""
        parts = [self.spec.name, self._digest, self.spec.output, self.spec.digits]
        return json.dumps([*parts, self._output] if self._output else parts)

    async def open(self) -> None:
        """See `Client.open`."""
        if self._session is None:
            self._session = await asyncio.to_thread(self._load)

    async def ask(self, images: np.ndarray) -> np.ndarray:
        """See `Client.ask`."""
        assert self._told is not None and self._told.output is not None
        if self._told.layout == "nchw":
            images = images.transpose(0, 3, 1, 2)
        sent = as_sent(images, self._told.datatype)
        name = self._told.outputs[self._told.output].name
        (answer,) = await asyncio.to_thread(
            self._session.run, [name], {self._told.input: sent}
        )
        answer = np.asarray(answer)
        if answer.dtype == object:  # Labels that are names.
            answer = answer.astype(str)
        if self._guess and self.spec.output == "logits":
            values = answer.reshape(len(images), -1)
            if values.dtype.kind == "f" and sums_to_one(values):
                self._assume_probabilities("its answers sum to one")
        return answer

    async def close(self) -> None:
        """See `Client.close`."""
        self._session = None

    def _assume_probabilities(self, why: str) -> None:
        self.spec = self.spec._replace(output="probabilities")
        print(
            f"endpoint {self.spec.name}: {why}; taken as probabilities, as no "
            "output is declared",
            file=sys.stderr,
            flush=True,
        )

    def _load(self) -> Any:
        import onnxruntime

        where = f"endpoint {self.spec.name}: {self._file}"
        if not self._file.is_file():
            raise InputError(f"{where}: no such file")
        content = self._file.read_bytes()
        digest = hashlib.blake2b(content, digest_size=8)
        try:
            model = onnx_proto.parse(content)
            for file in onnx_proto.weight_files(model, self._file):
                with file.open("rb") as weights:
                    for part in iter(lambda: weights.read(1 << 20), b""):
                        digest.update(part)
        except (ValueError, OSError) as error:
            raise InputError(f"{where}: no model that can be run ({error})") from None
        self._digest = digest.hexdigest()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # Several teachers run at once instead.
        try:
            # By its path, so that weights beside it are found.
            session = onnxruntime.InferenceSession(
                str(self._file),
                options,
                providers=onnxruntime.get_available_providers(),
            )
        except Exception as error:
            why = str(error).splitlines()[0][:200]
            raise InputError(f"{where}: no model that can be run ({why})") from None
        self._compare(session, model, where)
        self._compare_tail(model, where)
        return session

    def _compare(self, session: Any, model: Any, where: str) -> None:
        """Reads inputs and outputs, and compares them with what is declared."""
        found = {
            "inputs": _listed(session.get_inputs()),
            "outputs": _listed(session.get_outputs()),
        }
        if len(found["inputs"]) != 1:
            names = ", ".join(tensor["name"] for tensor in found["inputs"])
            raise InputError(
                f"{where}: takes {len(found['inputs'])} inputs ({names}); only images "
                "can be given"
            )
        told = metadata.read(
            found,
            self.spec,
            model=self._file.name,
            layout=self._chosen_layout(found["inputs"][0]["shape"]),
            output_name=self._named or self._by_softmax(found["outputs"], model),
        )
        if not told.batched or told.output is None:
            raise InputError(
                f"{where}: takes {found['inputs'][0]['shape']}, which has no axis of "
                "images; export it with a free batch dimension"
            )
        if told.batch > 1:
            raise InputError(
                f"{where}: takes exactly {told.batch} images at once; export it with a "
                "free batch dimension"
            )
        if told.batch == 1:
            self.max_batch = 1
        self._told = told
        # The first was always taken before there was a choice.
        self._output = told.outputs[told.output].name if told.output else ""

    def _by_softmax(self, outputs: list[dict[str, Any]], model: Any) -> str:
        """The one output of the right width and kind, by what computes it; or ""."""
        if len(outputs) < 2 or self.spec.output not in ("logits", "probabilities"):
            return ""
        fitting = [
            output["name"]
            for output in outputs
            if output["datatype"].startswith("FP")
            and output["shape"][1:] in ([self.spec.num_classes], [-1])
        ]
        wanted = self.spec.output == "probabilities"
        mine = [
            name
            for name in fitting
            if onnx_proto.ends_in_softmax(model, name) == wanted
        ]
        return mine[0] if len(mine) == 1 and len(fitting) > 1 else ""

    def _chosen_layout(self, shape: list[int]) -> str:
        h, w, c = self.spec.image_shape
        if self._layout == "auto" and len(shape) == 4:
            sizes = zip(shape[1:], (c, h, w), (h, w, c), strict=True)
            if all(
                have in (-1, first) and have in (-1, last)
                for have, first, last in sizes
            ):
                return "nchw"
        return self._layout

    def _compare_tail(self, model: Any, where: str) -> None:
        """Whether what is declared logits comes out of a softmax."""
        assert self._told is not None and self._told.output is not None
        name = self._told.outputs[self._told.output].name
        if self.spec.output != "logits" or not onnx_proto.ends_in_softmax(model, name):
            return
        if not self._guess:
            raise InputError(
                f"{where}: output {name!r} comes out of a softmax, so that it is no "
                "logits; write output: probabilities"
            )
        self._assume_probabilities(f"output {name!r} comes out of a softmax")


def _listed(tensors: Sequence[Any]) -> list[dict[str, Any]]:
    """As a server's metadata would list them; free sizes are -1."""
    return [
        {
            "name": tensor.name,
            "datatype": _TYPES.get(tensor.type, tensor.type),
            "shape": [size if isinstance(size, int) else -1 for size in tensor.shape],
        }
        for tensor in tensors
    ]
