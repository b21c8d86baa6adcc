"""Serves the teachers of a zoo by MLServer, and runs an experiment against them.

    python experiments/serve_zoo.py --zoo=DIR --folder=DIR [--limit=3] [--port=8080] \
        [-- --config=experiments/configs/panel_cifar_fs.py:queries ...]

Writes an ONNX file for each Conv4 and ResNet, a zoo of one for each of the others,
which JAX serves, the server's settings and ``apis.yaml`` to the folder, starts the
server on loopback, runs ``experiments/run.py`` with everything behind ``--`` and
``--config.zoo.apis=FOLDER/apis.yaml``, and stops the server.  Without ``--`` it serves
until it is interrupted; with ``--export_only`` it only writes.
"""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
if str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402

from free_jax import release  # noqa: E402
from free_jax import zoo as zoo_lib  # noqa: E402
from free_jax.errors import InputError  # noqa: E402


def export(
    zoo: zoo_lib.Zoo,
    folder: Any,
    port: int = 8080,
    *,
    limit: int | None = None,
) -> pathlib.Path:
    """Writes ONNX files, a model repository of MLServer, and ``apis.yaml``.

    Args:
      zoo: teachers, of any networks.
      folder: made if missing.
      port: of the server on loopback; the next one is its gRPC port.
      limit: only so many teachers of each group, the first ones.

    Returns:
      The path of ``apis.yaml``.
    """
    import yaml

    root = pathlib.Path(folder).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    numbers = range(zoo.num_teachers)
    if limit:
        numbers = zoo_lib.first_of_each_group(zoo, limit)
    entries = []
    for number in map(int, numbers):
        place, row = zoo.locate(number)
        group = zoo.groups[place]
        network, teacher = group.network, zoo_lib.take(group.teachers, row)
        name = f"teacher{number:03d}"
        model = root / name
        model.mkdir(exist_ok=True)
        if release.is_written(network):
            file = release.onnx_classifier(network, teacher.variables)
            (model / "model.onnx").write_bytes(file.SerializeToString())
            kind, parameters = "onnx", {"uri": "./model.onnx"}
        else:
            alone = zoo_lib.select(zoo, np.asarray([number]))
            zoo_lib.save_zoo(alone, model / "zoo")
            kind, parameters = "jax", {"uri": "./zoo"}
        settings = _settings(name, kind, parameters, network)
        (model / "model-settings.json").write_text(json.dumps(settings, indent=1))
        ids = np.asarray(teacher.class_ids)
        entries.append(
            {
                "model": name,
                "class_names": [zoo.class_names[k] for k in ids],
                "image_size": network.image_shape[0],
                "channels": network.image_shape[2],
                "mean": list(network.mean),
                "std": list(network.std),
                "domain": group.domain,
            }
        )
    server = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "gzip_enabled": False,
        "debug": False,
    }
    (root / "settings.json").write_text(json.dumps(server, indent=1))
    content = {
        "defaults": {"url": f"http://127.0.0.1:{port}", "output": "logits"},
        "endpoints": entries,
    }
    file = root / "apis.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


# What runs a model of each platform, see `free_jax.remote.mlserver_model`.
RUNTIMES = {"onnx": "OnnxModel", "jax": "ZooModel"}


def _settings(name: str, kind: str, parameters: Any, network: Any) -> dict[str, Any]:
    """What MLServer asks to know of a model."""
    images = [-1, *network.image_shape]
    logits = [-1, network.num_classes]
    return {
        "name": name,
        "implementation": f"free_jax.remote.mlserver_model.{RUNTIMES[kind]}",
        "platform": kind,
        "parameters": {"version": "1", **parameters},
        "inputs": [{"name": "images", "datatype": "FP32", "shape": images}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": logits}],
    }


@contextlib.contextmanager
def serving(folder: Any, *, seconds: float = 600.0) -> Iterator[str]:
    """Runs MLServer on an exported folder; yields its URL once all models are ready.

    Raises:
      InputError: the server ended or was not ready in time.
    """
    root = pathlib.Path(folder).expanduser().resolve()
    settings = json.loads((root / "settings.json").read_text())
    url = f"http://127.0.0.1:{settings['http_port']}"
    code = "from mlserver.cli import main; main()"
    command = [sys.executable, "-c", code, "start", str(root)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    with open(root / "server.log", "w") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=root, env=environment
        )
    try:
        deadline = time.monotonic() + seconds
        while not _ready(f"{url}/v2/health/ready"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise InputError(
                    f"MLServer did not start on {url}; see {root / 'server.log'}"
                )
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (2 for bad input)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    run = given[given.index("--") + 1 :] if "--" in given else []
    own = given[: given.index("--")] if "--" in given else given
    parser = argparse.ArgumentParser(description="Serves a zoo by MLServer.")
    add = parser.add_argument
    add("--zoo", required=True, help="converted zoo, see convert_zoo.py")
    add("--folder", required=True, help="where the ONNX files and apis.yaml go")
    add("--limit", type=int, help="only the first teachers of each group")
    add("--port", type=int, default=8080, help="HTTP; the next one is gRPC's")
    add("--export_only", action="store_true", help="start no server")
    args = parser.parse_args(own)
    try:
        zoo = zoo_lib.load_zoo(pathlib.Path(args.zoo).expanduser())
        file = export(zoo, args.folder, args.port, limit=args.limit)
        print(f"teachers of {args.zoo} written to {args.folder}", flush=True)
        if args.export_only:
            return 0
        with serving(args.folder) as url:
            print(f"serving at {url}", flush=True)
            if not run:
                print(f"use --config.zoo.apis={file}; Ctrl-C ends", flush=True)
                with contextlib.suppress(KeyboardInterrupt):
                    while True:
                        time.sleep(1)
                return 0
            script = str(REPOSITORY / "experiments" / "run.py")
            command = [sys.executable, script, *run, f"--config.zoo.apis={file}"]
            return subprocess.run(command).returncode
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
