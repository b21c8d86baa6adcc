"""Models that are graphs already: ONNX, torch.export, TorchScript (with consent)."""

import io
import json
import pathlib
import tempfile
import zipfile
from typing import Any

from free_jax.errors import InputError
from free_jax.interop.hub import conversion
from free_jax.interop.hub.consent import digest_of, trusted_bytes
from free_jax.interop.hub.facts import Fact
from free_jax.interop.hub.huggingface import folder_facts, stated_labels
from free_jax.interop.hub.labels import names_beside, names_in_text
from free_jax.interop.hub.reading import Converted, Reading, Setting
from free_jax.interop.tensors.archive import open_archive
from free_jax.interop.tensors.opening import open_within, refuse_foreign, sniff

_LARGEST_PROGRAM, _LARGEST_LABELS = 64 << 20, 1 << 20


def read_onnx_file(setting: Setting) -> Reading:
    """Reads an .onnx file, with what configs beside it say.

    Raises:
      InputError: it is damaged, no classifier, or has operators that are not known.
    """
    file = open_within(setting.candidate.file, setting.root)
    refuse_foreign(sniff(file), setting.name)
    return _onnx_reading(setting, file, setting.root, "onnx", "")


def _onnx_reading(
    setting: Setting, file: pathlib.Path, inside: Any, kind: str, words: str
) -> Reading:
    from free_jax.interop.onnx_graph import read_onnx

    name = setting.name
    model = read_onnx(file, inside=inside)
    h, w, c = model.image_shape
    facts: dict[str, Fact] = {}
    config = setting.candidate.config
    if kind == "onnx":
        facts.update(folder_facts(setting))
    if h and w:
        source = f"{name}:{model.sources.get('image_shape', 'input')}"
        if "size" in facts and facts["size"].value != (h, w):
            facts = {k: v for k, v in facts.items() if k not in ("resize_to", "crop")}
        facts["size"] = Fact((h, w), source)
    if model.range == 255:
        # The graph scales and normalises its pixels itself.
        source = f"{name}:{model.sources.get('range', 'input')}"
        facts.update(
            range=Fact(255, source),
            mean=Fact((0.0,), source),
            std=Fact((1.0,), source),
        )
    stated = None
    if model.class_names is not None:
        source = f"{name}:{model.sources.get('class_names', 'metadata_props')}"
        stated = Fact(list(model.class_names), source)

    def convert(image_shape_chw: tuple[int, int, int]) -> Converted:
        from free_jax.interop import programs

        c, h, w = image_shape_chw
        made = programs.canonical(
            model.graph, image_shape=(h, w, c), batch=model.fixed_batch
        )
        return conversion.converted(*made)

    return Reading(
        kind,
        words or f"graph of {len(model.graph.nodes)} operations (ONNX)",
        c or 3,
        facts,
        [
            stated,
            stated_labels(config) if config else None,
            names_beside(setting.candidate.folder, file.stem, setting.root),
        ],
        convert,
        digest=digest_of(model.graph.weights),
        sources={"network": name},
    )


def read_torch_export(setting: Setting) -> Reading:
    """Reads a .pt2 file of torch.export.

    Raises:
      InputError: it is damaged, no classifier, or has operators that are not known.
    """
    from free_jax.interop.pt2 import read_pt2

    name = setting.name
    file = open_within(setting.candidate.file, setting.root)
    refuse_foreign(sniff(file), name)
    raw = read_pt2(file)
    channels, size = _pt2_images(file)
    facts = {} if size is None else {"size": Fact(size, f"{name}:input")}

    def convert(image_shape_chw: tuple[int, int, int]) -> Converted:
        from free_jax.interop import programs

        c, h, w = image_shape_chw
        made = programs.canonical(raw, image_shape=(h, w, c), batch=raw.fixed_batch)
        return conversion.converted(*made)

    return Reading(
        "torch_export",
        f"graph of {len(raw.nodes)} operations (torch.export)",
        channels,
        facts,
        [
            _extra_labels(file, name),
            names_beside(setting.candidate.folder, file.stem, setting.root),
        ],
        convert,
        digest=digest_of(raw.weights),
        sources={"network": name},
    )


def _pt2_images(file: pathlib.Path) -> tuple[int, tuple[int, int] | None]:
    """Channels and size of the images of a .pt2, as far as its program says."""
    try:
        with open_archive(file) as archive:
            entry = next(
                i
                for i in archive.infolist()
                if i.filename.endswith(("models/model.json", "exported_program.json"))
                and i.file_size <= _LARGEST_PROGRAM
            )
            module = json.loads(archive.read(entry))["graph_module"]
        inputs = module["signature"]["input_specs"]
        image = next(i["user_input"] for i in inputs if "user_input" in i)
        name = image["arg"]["as_tensor"]["name"]
        sizes = module["graph"]["tensor_values"][name]["sizes"]
        numbers = [size.get("as_int", 0) for size in sizes]
        if len(numbers) != 4:
            return 3, None
        _, c, h, w = map(int, numbers)
        if c not in (1, 3) and w in (1, 3):
            h, w, c = c, h, w
        return c or 3, ((h, w) if h and w else None)
    except InputError:
        raise
    except Exception:  # A program without such an entry says nothing.
        return 3, None


def _extra_labels(file: pathlib.Path, name: str) -> Fact | None:
    """Names among the extra files of an archive of PyTorch."""
    with open_archive(file) as archive:
        for entry in archive.infolist():
            inner = pathlib.PurePosixPath(entry.filename)
            extra = "extra" in inner.parts[:-1]
            texts = ("labels.txt", "classes.txt", "class_names.txt")
            if not extra or inner.name.lower() not in texts:
                continue
            if entry.file_size > _LARGEST_LABELS:
                return None
            try:
                text = archive.read(entry).decode("utf-8-sig")
            except (UnicodeDecodeError, zipfile.BadZipFile, ValueError, OSError):
                return None
            names = names_in_text(text)
            return Fact(names, f"{name}:extra/{inner.name}") if names else None
    return None


def read_torchscript(setting: Setting) -> Reading:
    """Reads TorchScript, which PyTorch runs while it is exported, with consent.

    Raises:
      InputError: no consent, or PyTorch cannot load or export it.
    """
    file = open_within(setting.candidate.file, setting.root)
    content, digest = trusted_bytes(setting.consent, setting.names, file)
    labels = _extra_labels(file, setting.name)
    module = _loaded(content, setting.name)
    state = {k: v.float().numpy() for k, v in module.state_dict().items()}
    kernels = [v for v in state.values() if v.ndim == 4]
    channels = int(kernels[0].shape[1]) if kernels else 3

    def convert(image_shape_chw: tuple[int, int, int]) -> Converted:
        from free_jax.interop import programs
        from free_jax.interop.onnx_graph import read_onnx

        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "scripted.onnx"
            _export(module, image_shape_chw, path, setting.name)
            model = read_onnx(path, inside=folder)
        c, h, w = image_shape_chw
        made = programs.canonical(
            model.graph, image_shape=(h, w, c), batch=model.fixed_batch
        )
        return conversion.converted(*made, framework=module)

    return Reading(
        "torchscript",
        "TorchScript, exported to ONNX",
        channels,
        {},
        [
            labels,
            names_beside(setting.candidate.folder, file.stem, setting.root),
        ],
        convert,
        digest=digest_of(state),
        sources={"network": setting.name},
        consent={setting.candidate.files[0]: digest},
    )


def _loaded(content: bytes, name: str) -> Any:
    from free_jax.interop.hub.own_code import quiet

    try:
        import torch
    except ImportError as error:
        raise InputError(
            f'{name}: reading TorchScript needs PyTorch: pip install "free_jax[torch]"'
        ) from error
    try:
        with quiet():
            return torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
    except Exception as error:  # Damaged archives raise whatever they run into.
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{name}: PyTorch cannot load it ({reason})") from error


def _export(module: Any, image_shape_chw: Any, path: pathlib.Path, name: str) -> None:
    """To ONNX by the exporter for TorchScript, batch norms kept."""
    import torch

    from free_jax.interop.hub.own_code import quiet

    try:
        with quiet(), torch.no_grad():
            torch.onnx.export(
                module,
                (torch.zeros(2, *image_shape_chw),),
                str(path),
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
                dynamo=False,
            )
    except ImportError as error:
        raise InputError(
            f"{name}: converting TorchScript needs onnx: "
            'pip install "free_jax[convert]"'
        ) from error
    except Exception as error:  # The exporter raises many kinds.
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{name}: PyTorch cannot export it to ONNX ({reason}); save its "
            "state_dict, or export the module with torch.export"
        ) from error
