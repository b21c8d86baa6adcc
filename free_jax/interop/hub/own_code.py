"""Networks whose code lies beside their weights, run with consent alone."""

import ast
import contextlib
import functools
import hashlib
import inspect
import io
import pathlib
import re
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from free_jax.errors import InputError
from free_jax.interop.hub.consent import trusted_bytes
from free_jax.interop.hub.reading import Setting
from free_jax.interop.programs import as_float32
from free_jax.interop.tensors.opening import open_within

_LARGEST_CODE = 1 << 20
_AUTO = "AutoModelForImageClassification"


def code_beside(setting: Setting) -> tuple[pathlib.Path, str] | None:
    """The file of code and the class that the table names, or the only file there is.

    Returns:
      The file, and the rest of ``code:`` ("" where only the file is known); None where
      there is no code.

    Raises:
      InputError: the table's ``code`` is no file of the folder.
    """
    stated = setting.row.values.get("code")
    folder = setting.candidate.folder
    if stated is None:
        files = [p for p in sorted(folder.glob("*.py")) if p.is_file()]
        return (files[0], "") if len(files) == 1 else None
    name, _, call = stated.partition(":")
    if pathlib.PurePath(name).is_absolute() or not name.endswith(".py"):
        raise InputError(
            f"{setting.row.source}: code {stated[:80]!r} must be FILE.py:Class, a file "
            "beside the model"
        )
    file = folder / name
    open_within(file, setting.root, _LARGEST_CODE)
    return file, call.strip()


def module_of_code(
    setting: Setting,
    file: pathlib.Path,
    call: str,
    states: Sequence[Mapping[str, np.ndarray]],
) -> tuple[Any, str, dict[str, str]]:
    """A module of trusted code with its weights.

    Args:
      setting: of the model.
      file: the code; its bytes are hashed and then run.
      call: "Class", "Class(width=20)", or "": the class that the weights fit.
      states: the weights, under the keys that the class may use; the first that fits.

    Returns:
      The module in inference, what it is, and {file: SHA-256}.

    Raises:
      InputError: no consent; the code fails, or the weights do not fit it.
    """
    real = open_within(file, setting.root, _LARGEST_CODE)
    content, digest = trusted_bytes(setting.consent, setting.names, real)
    import torch

    # Classes find their module by its name, as dataclasses do.
    name = f"_free_jax_trusted_{digest[:16]}"
    module = types.ModuleType(name)
    module.__file__ = str(file)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        with quiet():
            exec(compile(content, file.name, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{file.name}: fails when run ({type(error).__name__}: "
            f"{str(error)[:100]}); all that it needs must be in this file or installed"
        ) from error
    finally:
        if before is not None:
            sys.modules[name] = before
    label, arguments = _call(call, setting.row.source)
    classes = _classes(module, label, torch.nn.Module, file.name)
    reasons = []
    for cls in classes:
        made = _fitting(cls, arguments, states, reasons)
        if made is not None:
            found = f"{cls.__name__} ({file.name})"
            return made.eval(), found, {_relative(setting, file): digest}
    raise InputError(
        f"{file.name}: the weights fit no class of it ({'; '.join(reasons)[:200]}); "
        'write code: "FILE.py:Class(argument=1)" into teachers.yaml'
    )


def _relative(setting: Setting, file: pathlib.Path) -> str:
    return file.relative_to(setting.root).as_posix()


def _call(call: str, source: str) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of Class(width=20); values are literals."""
    if not call:
        return "", {}
    try:
        tree = ast.parse(call, mode="eval").body
        if isinstance(tree, ast.Name):
            return tree.id, {}
        if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name):
            raise ValueError("no call")
        if tree.args or any(k.arg is None for k in tree.keywords):
            raise ValueError("arguments without names")
        found = {str(k.arg): ast.literal_eval(k.value) for k in tree.keywords}
        return tree.func.id, found
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise InputError(
            f"{source}: code: {call[:80]!r} must be Class or Class(name=value)"
        ) from error


def _classes(module: Any, label: str, base: type, file: str) -> list[Any]:
    own = [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, base)
        and value.__module__ == module.__name__
    ]
    if label:
        named = getattr(module, label, None)
        if not callable(named):
            raise InputError(f"{file}: has no class {label[:80]!r}; correct code:")
        return [named]
    # What is defined last is usually made of what comes before.
    return own[::-1]


def _fitting(cls, arguments, states, reasons: list[str]) -> Any:
    """The class's module with the weights; None where they do not fit."""
    import torch

    for state in states:
        tried = [arguments]
        classes = outputs(state)
        if classes and "num_classes" not in arguments:
            tried.append({**arguments, "num_classes": classes})
        for given in tried:
            try:
                with quiet():
                    made = cls(**given)
                    made.load_state_dict(
                        {k: torch.tensor(np.asarray(v)) for k, v in state.items()}
                    )
                return made
            except Exception as error:  # Code of strangers raises anything.
                reason = " ".join(str(error).split())[:100]
                reasons.append(f"{getattr(cls, '__name__', 'code')}: {reason}")
    return None


def outputs(state: Mapping[str, np.ndarray]) -> int | None:
    """Length of the last matrix: the classes, most often."""
    last = [v for v in state.values() if np.ndim(v) >= 2]
    return int(last[-1].shape[0]) if last else None


def whole_module(setting: Setting, file: pathlib.Path) -> tuple[Any, dict[str, str]]:
    """A module that was pickled whole, unpickled with consent.

    Raises:
      InputError: no consent, or it cannot be unpickled.
    """
    content, digest = trusted_bytes(setting.consent, setting.names, file)
    import torch

    try:
        with quiet():
            loaded = torch.load(
                io.BytesIO(content), weights_only=False, map_location="cpu"
            )
    except Exception as error:  # Unpickling runs anything.
        raise InputError(
            f"{file.name}: cannot be unpickled ({type(error).__name__}: "
            f"{str(error)[:100]}); install the packages that it was made with"
        ) from error
    if isinstance(loaded, Mapping):
        modules = [v for v in loaded.values() if isinstance(v, torch.nn.Module)]
        loaded = modules[0] if modules else loaded
    if not isinstance(loaded, torch.nn.Module):
        raise InputError(f"{file.name}: holds a {type(loaded).__name__}, no module")
    return loaded.float().eval(), {setting.candidate.files[0]: digest}


def class_of_auto_map(config: Mapping[str, Any]) -> str | None:
    """The class that ``config.json`` names for image classification, "file.Class"."""
    stated = config.get("auto_map")
    if not isinstance(stated, Mapping) or _AUTO not in stated:
        return None
    return str(stated[_AUTO])


def remote_module(
    setting: Setting, config: Mapping[str, Any], state: Mapping[str, np.ndarray]
) -> tuple[Callable[[], Any], dict[str, str]]:
    """What makes a model of Hugging Face whose code lies in its folder, with consent.

    Consent that is bound to a SHA-256 has to name that of each file of code there, for
    any may import any.

    Args:
      setting: of the model.
      config: content of ``config.json``, with an ``auto_map``.
      state: the weights.

    Returns:
      The function, and {file: SHA-256} of all code in the folder.

    Raises:
      InputError: no consent, or the code is elsewhere.
    """
    named = {key: config["auto_map"].get(key) for key in ("AutoConfig", _AUTO)}
    for key, stated in named.items():
        if key == "AutoConfig" and stated is None:
            continue
        # "owner/name--file.Class" would be code of another repository.
        if not isinstance(stated, str) or not re.fullmatch(r"\w+\.\w+", stated):
            raise InputError(
                f"config.json:auto_map: {key} {str(stated)[:80]!r} must be FILE.CLASS, "
                "of a file in this folder"
            )
    contents, digests = {}, {}
    for file in sorted(setting.candidate.folder.glob("*.py")):
        real = open_within(file, setting.root, _LARGEST_CODE)
        contents[file.name], digest = trusted_bytes(
            setting.consent, setting.names, real
        )
        digests[_relative(setting, file)] = digest
    for stated in filter(None, named.values()):
        if f"{stated.split('.')[0]}.py" not in contents:
            raise InputError(
                f"config.json:auto_map: there is no {stated.split('.')[0]}.py in this "
                "folder; copy the model with its code"
            )
    make = functools.partial(
        _remote, setting.candidate.path, contents, config, named, state
    )
    return make, digests


def _remote(source, contents, config, named, state):
    """Runs files of these contents; nothing of the model's folder is read again."""
    from free_jax.interop.frameworks.loading import package

    dynamic = package("transformers.dynamic_module_utils", source)
    import torch

    tensors = {
        key: torch.tensor(as_float32(np.asarray(value)))
        if np.asarray(value).dtype.kind not in "biu"
        else torch.tensor(np.asarray(value))
        for key, value in state.items()
    }
    file = f"{named[_AUTO].split('.')[0]}.py"
    try:
        with tempfile.TemporaryDirectory() as place, quiet():
            # Transformers keeps what it runs, under the name of the folder.
            whole = hashlib.sha256(b"".join(contents.values())).hexdigest()
            folder = pathlib.Path(place) / f"free_jax_trusted_{whole[:16]}"
            folder.mkdir()
            for name, content in contents.items():
                (folder / name).write_bytes(content)
            find = functools.partial(
                dynamic.get_class_from_dynamic_module,
                pretrained_model_name_or_path=str(folder),
                local_files_only=True,
            )
            cls = find(named[_AUTO])
            of = find(named["AutoConfig"]) if named["AutoConfig"] else cls.config_class
            settings = of.from_dict(dict(config))
            model, loaded = cls.from_pretrained(
                None,
                config=settings,
                state_dict=tensors,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (Exception, SystemExit) as error:  # Code of strangers raises anything.
        raise InputError(
            f"{file}: fails when run ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:120]})"
        ) from error
    if lacking := sorted(loaded["missing_keys"]):
        raise InputError(
            f"{file}: the weights lack {', '.join(lacking[:3])}; one of the two is not "
            "of this model"
        )
    return model.eval()


@contextlib.contextmanager
def quiet():
    """Without what code of strangers prints, and without bytecode on the disk."""
    import warnings

    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        sys.dont_write_bytecode = before
