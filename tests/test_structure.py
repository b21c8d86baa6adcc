"""The house: how many floors it has, and what may not stand in it.

Which room may import which is a contract of import-linter (`make lint`).
"""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
MOST_FLOORS = 7
LONGEST = 120
LONG = 90
# Longer functions that still exist.  This set only shrinks.
STILL_LONGER: set[str] = set()
# Tables of numbers and parsed texts: pure functions of a few plain values, no programs.
KEPT_TABLES = {
    "free_jax.interop.program_library._shipped",
    "free_jax.models.operators.onnx_windows.resize_weights",
}


def modules(package):
    """Dotted name to file, of all modules below a package."""
    found = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = file
    return found


def imported(file, known):
    """Modules among `known` that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inside]
        else:
            continue
        yield from (name for name in names if name in known)


def arrows(package):
    """Room to rooms that it imports; a room is a file or folder of the package."""
    known = modules(package)
    found = {}
    for name, file in known.items():
        if name == package:
            continue
        room = name.split(".")[1]
        found.setdefault(room, set())
        for other in imported(file, known):
            if other != package and other.split(".")[1] != room:
                found[room].add(other.split(".")[1])
    return found


def floor(room, below, path=()):
    """How many rooms stand on one another below this one, itself included."""
    assert room not in path, f"a circle: {' > '.join([*path, room])}"
    return 1 + max(
        (floor(other, below, (*path, room)) for other in below[room]), default=0
    )


def test_floors_of_the_experiments():
    below = arrows("experiments")
    floors = {room: floor(room, below) for room in below}
    floors.pop("run")  # The command, which imports the others by name.
    assert floors["harness"] == 1
    assert max(floors.values()) <= MOST_FLOORS, sorted(floors.items(), key=str)


def test_the_library_has_no_circle():
    below = arrows("free_jax")
    assert floor("errors", below) == 1
    for room in below:
        floor(room, below)


def test_the_library_imports_nothing_of_the_experiments():
    """Within functions and for types neither; `make lint` holds it as a contract."""
    known = modules("experiments")
    for name, file in modules("free_jax").items():
        assert not list(imported(file, known)), name


def arguments(package):
    """Qualified name of every function, its parameters and their annotations."""
    for module, file in modules(package).items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                every = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                for given in every:
                    kind = ast.unparse(given.annotation) if given.annotation else ""
                    yield f"{module}.{node.name}", given.arg, kind


@pytest.mark.parametrize("room", ["stages", "inputs", "evaluation"])
def test_configs_stop_at_the_methods(room):
    """Below, a function takes the records it needs, and says which."""
    for function, name, kind in arguments(f"experiments.{room}".replace(".", "/")):
        assert name not in ("config", "settings"), function
        if name in ("options", "section", "wanted", "recipe", "zoo", "data"):
            assert kind not in ("", "Any"), f"{function}({name})"
    files = modules(f"experiments/{room}").values()
    assert not [file for file in files if "experiments.methods" in file.read_text()]


def test_the_harness_speaks_of_no_science():
    words = r"teacher|zoo|panel|distil|inversion|dead.leaves|student|sabotage|yardstick"
    for file in modules("experiments/harness").values():
        for number, line in enumerate(file.read_text().splitlines(), 1):
            found = re.search(words, line, re.IGNORECASE)
            assert not found, f"{file.name}:{number}: {line.strip()}"


def functions(package):
    """Qualified name and number of lines of every function."""

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                name = f"{prefix}.{child.name}"
                yield name, child.end_lineno - child.lineno + 1
            elif isinstance(child, ast.ClassDef):
                name = f"{prefix}.{child.name}"
            yield from walk(child, name)

    for module, file in modules(package).items():
        yield from walk(ast.parse(file.read_text()), module)


def test_no_function_is_longer_than_two_screens():
    lengths = [x for name in ("free_jax", "experiments") for x in functions(name)]
    longer = {name: lines for name, lines in lengths if lines > LONGEST}
    assert set(longer) <= STILL_LONGER, longer
    assert STILL_LONGER <= set(longer), "these are short by now: take them out"
    for name, lines in sorted(lengths):
        if LONG < lines <= LONGEST:
            print(f"{name} has {lines} lines")  # Shown by pytest -s.


def cached_globals(file):
    """What a module keeps compiled or computed for as long as the process lives.

    An empty container of the module counts: it is there to be filled.  Records' are not
    looked at, whose fields may be empty.
    """
    caches = {"jit", "lru_cache", "cache", "pmap"}
    containers = {"dict", "list", "set", "defaultdict", "OrderedDict", "Counter"}
    containers |= {"deque", "WeakKeyDictionary", "WeakValueDictionary", "WeakSet"}

    def named(node):
        """The last part of a possibly dotted and called name."""
        while isinstance(node, ast.Call):
            inner = node.args[0] if node.args else None
            if last(node.func) == "partial" and inner is not None:
                node = inner  # functools.partial(jax.jit, ...)
            else:
                node = node.func
        return last(node)

    def last(node):
        if isinstance(node, ast.Attribute):
            return node.attr
        return node.id if isinstance(node, ast.Name) else ""

    def empty(value):
        if isinstance(value, ast.Call):
            # A defaultdict's first argument says what it is filled with.
            held = value.args[last(value.func) == "defaultdict" :] or value.keywords
            return last(value.func) in containers and not held
        inside = getattr(value, "keys", getattr(value, "elts", None))
        return isinstance(value, (ast.Dict, ast.List)) and not inside

    def walk(body, in_class=False):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if caches & {named(x) for x in node.decorator_list}:
                    yield node.name
            elif isinstance(node, ast.ClassDef):
                yield from walk(node.body, in_class=True)
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value:
                called = isinstance(node.value, ast.Call)
                filled = not in_class and empty(node.value)
                if (called and named(node.value) in caches) or filled:
                    yield ast.unparse(node).split("=")[0].split(":")[0].strip()

    return list(walk(ast.parse(file.read_text()).body))


def test_the_library_keeps_no_programs_of_its_own():
    found = {
        f"{name}.{kept}"
        for name, file in modules("free_jax").items()
        for kept in cached_globals(file)
    }
    assert found == KEPT_TABLES


def test_what_counts_as_kept(tmp_path):
    file = tmp_path / "module.py"
    file.write_text(
        "import functools, jax\n"
        "@jax.jit\ndef a(): ...\n"
        "@functools.partial(jax.jit, static_argnums=0)\ndef b(): ...\n"
        "@functools.lru_cache(maxsize=None)\ndef c(): ...\n"
        "d = jax.jit(lambda x: x)\n"
        "e = functools.cache(f)\n"
        "def g():\n    return jax.jit(lambda x: x)\n"
        "h = dict(jit=1)\n"
        "i: dict[str, int] = {}\n"
        "j = []\n"
        "k = collections.defaultdict(list)\n"
        "l = weakref.WeakKeyDictionary()\n"
        "m = {1: 2}\nn = [3]\no = ()\np = frozenset()\nq = list(m)\n"
        "class R:\n    s: dict = {}\n    t = functools.cache(f)\n"
    )
    assert "".join(cached_globals(file)) == "abcdeijklt"
