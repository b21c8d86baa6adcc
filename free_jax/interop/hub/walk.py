"""Which models are in a folder, by the names of its files alone.

Nothing outside the folder is looked at and nothing is written.  Hidden entries and
those that archivers and notebooks leave behind are passed over and counted.
"""

import os
import pathlib
import re
from collections import Counter
from typing import Any, NamedTuple

from free_jax.errors import InputError
from free_jax.interop.tensors.opening import read_json, sniff

_DEEPEST, _MOST_ENTRIES = 24, 200_000
_LEFT_BEHIND = ("__macosx", "__pycache__", "lost+found", "thumbs.db", "desktop.ini")
_TORCH = (".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pt.tar", ".ts", ".jit",
          ".torchscript", ".ptl")  # fmt: skip
_WEIGHTS = (".safetensors", *_TORCH)
# Beside the weights of a training run; no models.
_NO_MODELS = re.compile(
    r"(optimizer|optim|scheduler|scaler|rng_state|random_states|training_args|"
    r"trainer_state|lr_scheduler|global_step)[\w.\-]*",
    re.I,
)
# Formats that hold models, but none that is read here.
_FOREIGN = {
    ".h5": "is a Keras or TensorFlow file; export it to ONNX (tf2onnx)",
    ".hdf5": "is a Keras or TensorFlow file; export it to ONNX (tf2onnx)",
    ".keras": "is a Keras file; export it to ONNX (tf2onnx, or model.export)",
    ".tflite": "is a TensorFlow Lite file; export it to ONNX (tf2onnx --tflite)",
    ".pb": "is a TensorFlow graph; export it to ONNX (tf2onnx)",
    ".msgpack": "is a Flax file; save the model as safetensors of PyTorch's names",
    ".mlmodel": "is a Core ML file; give the model that it was made from",
    ".gguf": "is a GGUF file, of language models mostly; give safetensors",
    ".pdparams": "is a PaddlePaddle file; export it to ONNX (paddle2onnx)",
    ".engine": "is a TensorRT engine; give the ONNX file that it was made from",
    ".pkl": "holds pickled objects, which are code and never run; save a state_dict",
    ".pickle": "holds pickled objects, which are code and never run; save a state_dict",
    ".joblib": "holds pickled objects, which are code and never run; export to ONNX",
    ".zip": "is an archive: unpack it",
    ".tar": "is an archive: unpack it",
    ".tgz": "is an archive: unpack it",
    ".gz": "is an archive: unpack it",
    ".7z": "is an archive: unpack it",
    ".rar": "is an archive: unpack it",
}
# Weights of a model folder, the first that is there.
_MODEL_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


class Candidate(NamedTuple):
    """One model, not yet read.

    Attributes:
      path: in the folder of models, with "/"; what the user calls it.
      folder: that it lies in.
      layout: "huggingface", "timm", "weights", "onnx", "torch_export" or "refused".
      file: of its weights.
      files: all of its weight files, relative to the folder of models.
      config: content of its config.json.
      message: for "refused", why.
    """

    path: str
    folder: pathlib.Path
    layout: str
    file: pathlib.Path
    files: tuple[str, ...]
    config: Any = None
    message: str = ""


class Walk(NamedTuple):
    """Candidates in natural order, and lines about what was passed over."""

    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]


def walk(root: pathlib.Path) -> Walk:
    """Finds the models of a folder, or the one model that a file is.

    Raises:
      InputError: there is no such folder, or it has too many entries.
    """
    if root.is_file():
        one = _Walk(root.parent)
        one.folder(root.parent, only=root.name)
    elif root.is_dir():
        one = _Walk(root)
        one.folder(root)
    else:
        raise InputError(f"{root}: no such folder of models; correct the path")
    found = sorted(one.found, key=lambda c: natural(c.path))
    counted = [
        f"{number} {what} passed over" for what, number in one.passed.items() if number
    ]
    return Walk(tuple(found), (*one.notes, *counted))


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts model_2 before model_10."""
    parts = re.split(r"(\d+)", name)
    return [
        (int(p), "") if p.isascii() and p.isdigit() else (-1, p.casefold())
        for p in parts
    ]


class _Walk:
    """What one walk has found so far."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.real = root.resolve()
        self.found: list[Candidate] = []
        self.notes: list[str] = []
        self.passed: Counter[str] = Counter()
        self.entries = 0

    def folder(self, folder: pathlib.Path, depth: int = 0, only: str = "") -> None:
        """One folder and those below it."""
        files, below = self._entries(folder)
        if only:
            files, below = [only], []
        if "zoo.json" in files:
            self._note(folder, "is a converted zoo: read it by its own path")
            return
        models = self._models(folder, files)
        if len(models) == 1 and folder != self.root and not only:
            models = [models[0]._replace(path=self._relative(folder))]
        self.found += models
        whole = any(m.layout in ("huggingface", "timm") for m in models)
        for name in below:
            if whole and name.lower() in ("onnx", "openvino", "coreml", "tflite"):
                self.passed["folders of other formats of a model"] += 1
            elif depth >= _DEEPEST:
                self._note(folder / name, f"is more than {_DEEPEST} folders deep")
            else:
                self.folder(folder / name, depth + 1)

    def _entries(self, folder: pathlib.Path) -> tuple[list[str], list[str]]:
        """Names of the files and folders of a folder that may be read."""
        files, below = [], []
        try:
            listed = sorted(os.scandir(folder), key=lambda e: natural(e.name))
        except OSError as error:
            self._note(folder, f"cannot be listed ({error.strerror})")
            return [], []
        self.entries += len(listed)
        if self.entries > _MOST_ENTRIES:
            raise InputError(
                f"{self.root}: has more than {_MOST_ENTRIES} entries; give the folder "
                "of the models alone"
            )
        for entry in listed:
            if entry.name.startswith(".") or entry.name.lower() in _LEFT_BEHIND:
                self.passed["hidden or left-behind entries"] += 1
            elif self._readable(entry):
                if entry.is_dir():
                    below.append(entry.name)
                else:
                    files.append(entry.name)
        return files, below

    def _readable(self, entry: os.DirEntry) -> bool:
        """Whether an entry is a file or folder inside the root; says so if not."""
        path = pathlib.Path(entry.path)
        try:
            if not entry.is_symlink():
                plain = entry.is_file() or entry.is_dir()
                self.passed["entries that are no files"] += not plain
                return plain
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            self._note(path, "is a link to nothing")
            return False
        if not target.is_relative_to(self.real):
            self._note(
                path, "is a link out of the folder, which is not followed: copy it"
            )
            return False
        if target.is_dir():
            self.passed["links to folders"] += 1
            return False
        return target.is_file()

    def _models(self, folder: pathlib.Path, files: list[str]) -> list[Candidate]:
        """The models of one folder."""
        lower = {name.lower(): name for name in files}
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            if name in lower and not _stated_model(lower):
                why = "is an adapter (LoRA) of another model; merge it and save that"
                return [self._candidate(folder, lower[name], "refused", message=why)]
        if "model_index.json" in lower:
            why = "is a pipeline that makes images, no classifier"
            return [
                self._candidate(
                    folder, lower["model_index.json"], "refused", message=why
                )
            ]
        if "config.json" in lower:
            model = self._stated(folder, lower)
            if model is not None:
                return [model]
        shards = self._sharded(folder, files)
        taken = {name for model in shards for name in _names(model)}
        singles = []
        for name in files:
            if name not in taken:
                singles += self._single(folder, name, lower)
        return [*shards, *self._merged(singles)]

    def _stated(self, folder: pathlib.Path, lower: dict[str, str]) -> Candidate | None:
        """The model that a config.json of Hugging Face or timm describes."""
        name = lower["config.json"]
        weights = _stated_model(lower)
        try:
            config = read_json(folder / name, self.root)
        except InputError as error:
            if weights is None:
                return None
            return self._candidate(folder, weights, "refused", message=str(error))
        if not isinstance(config, dict):
            return None
        named = config.get("model_type") or config.get("architectures")
        layout = None
        if isinstance(named, str | list):
            layout = "huggingface"
        elif isinstance(config.get("architecture"), str):
            layout = "timm"
        if layout is None:
            return None
        if weights is None:
            onnx = [n for n in lower.values() if n.lower().endswith(".onnx")]
            if onnx:
                return self._candidate(folder, onnx[0], "onnx", config)
            other = [n for n in lower if n.endswith((".h5", ".msgpack", ".index"))]
            why = (
                f"has weights of another framework alone ({other[0]}); save them with "
                "transformers as safetensors"
                if other
                else "has a config.json but no weights (model.safetensors)"
            )
            return self._candidate(folder, name, "refused", message=why)
        beside = [n for n in lower.values() if n != weights and _is_weights(n)]
        self.passed["weight files beside those of a model"] += sum(
            not re.match(r"(pytorch_)?model[-.]", n) for n in beside
        )
        return self._candidate(folder, weights, layout, config)

    def _sharded(self, folder: pathlib.Path, files: list[str]) -> list[Candidate]:
        """Models in several files, with an index or without."""
        found = []
        parts: dict[str, list[str]] = {}
        for name in files:
            part = re.fullmatch(r"(.+)-\d+-of-\d+(\.\w+)", name)
            if part:
                parts.setdefault(part[1] + part[2], []).append(name)
        for whole, names in parts.items():
            index = f"{whole}.index.json"
            if index in files:
                found.append(self._candidate(folder, index, "weights", more=names))
            else:
                why = f"has {len(names)} parts but no index ({index}); copy it, too"
                found.append(
                    self._candidate(
                        folder, names[0], "refused", message=why, more=names[1:]
                    )
                )
        for name in files:
            if name.endswith((".safetensors.index.json", ".bin.index.json")):
                if name.removesuffix(".index.json") not in parts:
                    found.append(self._candidate(folder, name, "weights"))
        return found

    def _single(
        self, folder: pathlib.Path, name: str, lower: dict[str, str]
    ) -> list[Candidate]:
        """The model that a file is; none where it is something else."""
        end = name.lower()
        if _NO_MODELS.fullmatch(end):
            self.passed["files of an optimizer or a trainer"] += 1
        elif end.endswith(".onnx"):
            return [self._candidate(folder, name, "onnx")]
        elif end.endswith(".pt2"):
            return [self._candidate(folder, name, "torch_export")]
        elif _is_weights(end):
            return [self._candidate(folder, name, "weights")]
        elif (suffix := pathlib.PurePath(end).suffix) in _FOREIGN:
            # Beside weights that are read, another format of the same model.
            return [self._candidate(folder, name, "refused", message=_FOREIGN[suffix])]
        return []

    def _merged(self, models: list[Candidate]) -> list[Candidate]:
        """Without files that belong to another: foreign formats, data of ONNX files."""
        read = {_stem(m) for m in models if m.layout != "refused"}
        onnx = any(m.layout == "onnx" for m in models)
        kept = []
        for model in models:
            foreign = model.layout == "refused" and _stem(model) in read
            data = onnx and model.file.name.lower().endswith(".bin")
            if foreign:
                self.passed["other formats of a model"] += 1
            elif data and sniff(model.file) == "unknown":
                self.passed["data files of ONNX models"] += 1
            else:
                kept.append(model)
        return kept

    def _candidate(
        self, folder, name, layout, config=None, message="", more=()
    ) -> Candidate:
        files = tuple(self._relative(folder / n) for n in (name, *more))
        whole = layout in ("huggingface", "timm") or config is not None
        path = self._relative(folder) if whole else files[0]
        message = f"{name}: {message}" if message else ""
        return Candidate(path, folder, layout, folder / name, files, config, message)

    def _relative(self, path: pathlib.Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _note(self, path: pathlib.Path, what: str) -> None:
        if len(self.notes) < 100:
            self.notes.append(f"{self._relative(path)} {what}")


def _is_weights(name: str) -> bool:
    return name.lower().endswith(_WEIGHTS)


def _names(model: Candidate) -> list[str]:
    return [pathlib.PurePosixPath(name).name for name in model.files]


def _stated_model(lower: dict[str, str]) -> str | None:
    """The weights that belong to a config.json."""
    for name in _MODEL_FILES:
        if name in lower:
            return lower[name]
    kinds = (r"model\..+\.safetensors", r".+\.safetensors", r"pytorch_model\..+\.bin")
    for kind in kinds:
        for name in lower:
            part = re.search(r"-\d+-of-\d+|^adapter_model", name)
            if re.fullmatch(kind, name) and not part:
                return lower[name]
    single = [
        name
        for name in lower
        if _is_weights(name)
        and not _NO_MODELS.fullmatch(name)
        and not re.search(r"-\d+-of-\d+|^adapter_model", name)
    ]
    return lower[single[0]] if len(single) == 1 else None


def _stem(model: Candidate) -> str:
    name = model.file.name.lower()
    for end in (*_WEIGHTS, ".onnx", ".pt2", *_FOREIGN):
        if name.endswith(end):
            return name.removesuffix(end)
    return name
