"""Reads a list of inference endpoints and makes a zoo of them.

    budget: 100000            # images over all endpoints, retries included; 0: no limit
    defaults:                 # what the endpoints below have in common
      url: https://models.example.org
      image_size: 32
      mean: [0.5, 0.5, 0.5]   # what the model wants of images in [0, 1]; default 0
      std: [0.5, 0.5, 0.5]    # default 1
    endpoints:
      - model: animals        # its name on the server
        class_names: [cat, dog, horse, mouse, sheep]   # in the order of its outputs
        output: probabilities # logits (default), probabilities, top_k or label
        digits: 3             # decimals that probabilities are rounded to
        token_variable: ANIMALS_TOKEN   # environment variable with a bearer token
        budget: 20000
      - name: vehicles        # in messages and counts; default: the model's name
        onnx: vehicles.onnx   # a file in place of url and model
        class_names: [bus, car, ship, train, truck]

Further keys: ``channels`` (3; 1 for a model of grey images, which images are turned
into), ``domain`` (name of the data; names that are numbers, such as LABEL_3, are one
class of the endpoints that state the same one, and classes of each endpoint's own where
none is stated), ``version`` of the model, ``output_name`` (which of several outputs is
the answer, where neither widths nor names tell), ``layout`` (nhwc or nchw, where the
server does not say), ``max_batch`` and ``in_flight`` (images a request, requests at
once), ``timeout`` (seconds a request), ``headers`` (sent with every request;
``${NAME}`` stands for an environment variable):

        headers: {Host: animals.models.local, x-api-key: "${ANIMALS_KEY}"}

Weights that lie beside an ``onnx`` file are read too.  Where its ``output`` is left
out, a softmax at the end is found, and said: its answers are taken as probabilities.

HTTP_PROXY, HTTPS_PROXY and NO_PROXY are honoured.  A server that says that it is not
ready yet is waited for, 60 seconds or ``patience: {seconds: ...}`` of the file.
"""

import contextlib
import difflib
import importlib.util
import pathlib
import urllib.parse
from collections.abc import Iterator
from typing import Any

from free_jax import remote
from free_jax import zoo as zoo_lib
from free_jax.errors import InputError
from free_jax.interop.hub import labels

LEDGER = "queries.sqlite"
# Keys of an endpoint with their type; the first three are needed.
KEYS: dict[str, tuple[type, ...]] = {
    "class_names": (list,),
    "image_size": (int,),
    "channels": (int,),
    "name": (str,),
    "model": (str,),
    "url": (str,),
    "onnx": (str,),
    "output": (str,),
    "output_name": (str,),
    "digits": (int,),
    "mean": (list,),
    "std": (list,),
    "token_variable": (str,),
    "headers": (dict,),
    "budget": (int,),
    "domain": (str,),
    "version": (str, int),
    "layout": (str,),
    "max_batch": (int,),
    "in_flight": (int,),
    "timeout": (int, float),
}
SECRET = ("headers",)  # Keys whose values are never shown.
PATIENCE = {key: (int, float) for key in remote.Patience._fields}


@contextlib.contextmanager
def opened(file: str, workdir: str, domain: str) -> Iterator[zoo_lib.Zoo]:
    """The zoo of the endpoints in a file, compared with what is served.

    Args:
      file: see the module.
      workdir: counts and answers are kept there, so that the same command continues
        without a query asked twice.
      domain: of endpoints that name none.

    Raises:
      InputError: the file, a token or an endpoint is not as it should be.
    """
    source = pathlib.Path(file).expanduser()
    content = _read(source)
    entries = [
        _entry(source, number, content["defaults"], entry)
        for number, entry in enumerate(content["endpoints"])
    ]
    clients = [_client(source, entry) for entry in entries]
    hub = remote.Hub(
        clients,
        remote.Ledger(pathlib.Path(workdir) / LEDGER),
        budgets=[entry.get("budget", 0) for entry in entries],
        total=content["budget"],
        patience=remote.Patience(**content["patience"]),
    )
    try:
        hub.open()
        zoo = remote.remote_zoo(
            hub,
            [client.spec for client in clients],
            _meanings(entries),
            [_normalization(entry) for entry in entries],
            [entry.get("domain", domain) for entry in entries],
        )
        answering = int(hub.alive().sum())
        print(
            f"{answering} of {len(entries)} endpoints of {file} answer; "
            f"{hub.queries} images were sent so far",
            flush=True,
        )
        yield zoo
    finally:
        hub.close()


def _meanings(entries: list[dict[str, Any]]) -> list[tuple[str | None, ...]]:
    """What outputs mean, None where a name is an index and no entry says of what.

    Two services that number their outputs would have one class for each number
    otherwise.  Of one domain that the file states, equal numbers are one class.
    """
    found = []
    for entry in entries:
        names = tuple(entry["class_names"])
        kept = names if entry.get("domain") else labels.meaningful(list(names))
        if kept is None or None in kept:
            print(
                f"endpoint {entry['name']}: class_names that are numbers are taken as "
                "classes of its own; name them, or state the domain of endpoints that "
                "share them",
                flush=True,
            )
        found.append(kept or (None,) * len(names))
    return found


def _read(source: pathlib.Path) -> dict[str, Any]:
    import yaml

    try:
        # YAML itself knows the byte order marks of editors.
        content = yaml.safe_load(source.read_bytes())
    except OSError as error:
        raise InputError(f"config.zoo.apis={source}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        why = _what_is_wrong(error)
        raise InputError(f"config.zoo.apis={source}: no YAML ({why})") from None
    sections = {"budget": int, "defaults": dict, "endpoints": list, "patience": dict}
    if not isinstance(content, dict) or not content.get("endpoints"):
        raise InputError(f"config.zoo.apis={source}: has no list of endpoints")
    _check_keys(f"{source}", content, {key: (kind,) for key, kind in sections.items()})
    full = {key: content.get(key, kind()) for key, kind in sections.items()}
    _check_keys(f"{source}: patience", full["patience"], PATIENCE)
    for key, value in {"budget": full["budget"], **full["patience"]}.items():
        if not value >= 0:
            raise InputError(f"{source}: {key}={value} must not be negative")
    return full


def _what_is_wrong(error: Exception) -> str:
    """Where and what, without the line itself, which may hold a secret."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", "")
    if mark is None:
        reason = getattr(error, "reason", "") or "a value that cannot be read"
        return f"{reason}; save it as UTF-8" if hasattr(error, "encoding") else reason
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _entry(
    source: pathlib.Path, number: int, defaults: dict[str, Any], own: Any
) -> dict[str, Any]:
    where = f"{source}: endpoint {number}"
    if not isinstance(own, dict):
        raise InputError(f"{where} is no mapping of keys such as model: NAME")
    entry = {**defaults, **own}
    common, more = defaults.get("headers"), own.get("headers")
    if isinstance(common, dict) and isinstance(more, dict):
        entry["headers"] = {**common, **more}
    if "name" not in entry:
        onnx = entry.get("onnx")
        file = pathlib.Path(onnx).stem if isinstance(onnx, str) else ""
        entry["name"] = entry.get("model") or file
    if isinstance(entry["name"], str) and not entry["name"].isprintable():
        raise InputError(
            f"{where}: its name {entry['name']!r} must be one line of text"
        )
    where += f" ({str(entry['name'])[:80]})"
    _check_keys(where, entry, KEYS)
    for key in ("class_names", "image_size"):
        if key not in entry:
            raise InputError(f"{where}: {key} is missing")
    if "onnx" in entry:
        for key in {"url", "output_name"} - own.keys():
            entry.pop(key, None)  # Among the defaults they mean servers.
    elif not entry.get("url") or not entry.get("model"):
        raise InputError(f"{where}: give url and model, or onnx")
    elif not entry["url"].startswith(("http://", "https://")):
        raise InputError(f"{where}: url={entry['url']!r} must start with http(s)://")
    elif not _has_host(entry["url"]):
        raise InputError(f"{where}: url names no host, or no port that is one")
    names = [str(name) for name in entry["class_names"]]
    if len(set(names)) < max(len(names), 2):
        raise InputError(f"{where}: class_names {names} must be two or more, distinct")
    for key in ("max_batch", "in_flight", "timeout"):
        if not entry.get(key, 1) > 0:
            raise InputError(f"{where}: {key}={entry[key]} must be positive")
    if entry.get("channels", 3) not in (1, 3):
        raise InputError(f"{where}: channels={entry['channels']} must be 1 or 3")
    if entry.get("budget", 0) < 0:
        raise InputError(f"{where}: budget={entry['budget']} must not be negative")
    return {**entry, "class_names": names}


def _has_host(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _check_keys(where: str, given: dict, known: dict[str, tuple[type, ...]]) -> None:
    for key, value in given.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = (
                f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            )
            raise InputError(f"{where}: unknown key {key!r}; {hint}")
        if not isinstance(value, known[key]) or isinstance(value, bool):
            kind = known[key][0].__name__
            shown = key if key in SECRET else f"{key}={value!r}"
            raise InputError(f"{where}: {shown} must be of type {kind}")


def _normalization(entry: dict[str, Any]) -> remote.Normalization:
    count = entry.get("channels", 3)
    mean, std = entry.get("mean", [0.0] * count), entry.get("std", [1.0] * count)
    try:
        return tuple(map(float, mean)), tuple(map(float, std))
    except (TypeError, ValueError):
        raise InputError(
            f"endpoint {entry['name']}: mean={mean} and std={std} must be numbers"
        ) from None


def _client(source: pathlib.Path, entry: dict[str, Any]) -> remote.Client:
    size = entry["image_size"]
    spec = remote.EndpointSpec(
        entry["name"],
        len(entry["class_names"]),
        (size, size, entry.get("channels", 3)),
        entry.get("output", "logits"),
        entry.get("digits", 0),
        tuple(entry["class_names"]),
    )

    def options(*keys: str) -> dict[str, Any]:
        return {key: entry[key] for key in keys if key in entry}

    if "onnx" in entry:
        _require("onnxruntime")
        file = source.parent / pathlib.Path(entry["onnx"]).expanduser()
        return remote.OnnxFile(
            spec,
            file,
            guess_output="output" not in entry,
            **options("output_name", "layout", "max_batch", "in_flight"),
        )
    _require("aiohttp", "orjson")
    return remote.OpenInference(
        spec,
        entry["url"],
        entry["model"],
        version=str(entry.get("version", "")),
        timeout=float(entry.get("timeout", 30)),
        **options(
            *("layout", "output_name", "token_variable", "headers"),
            *("max_batch", "in_flight"),
        ),
    )


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"remote teachers need {', '.join(missing)}; run: pip install "
            "'free_jax[remote]'"
        )
