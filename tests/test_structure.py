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
WITHOUT_REASON = 90
# Functions of more lines than need no reason, and why.
LONG = {
    "free_jax.inversion.loop:inverter": (
        "one loop read top to bottom; half of it is what its options mean"
    ),
}
# Modules that hold `jax.jit`, and what they compile.  All else is a function that
# its caller compiles.
JITS = {
    "experiments.harness.loop": "the state that training starts from",
    "experiments.harness.memory": "a step, so that a lack of memory is told in a line",
    "experiments.methods.panel": "the statistics of a distilled model, at its end",
    "experiments.stages.estimate": "a forward pass, to count and time it",
    "experiments.stages.pretrain": "an epoch of all teachers",
    "free_jax.algorithm": "the programs of a step over several networks",
    "free_jax.algorithms.recovered_tasks": "a chunk of images moved, before training",
    "free_jax.algorithms.tgr_grouping": "the teachers' embeddings, before training",
    "free_jax.baselines.hypernetwork": "the whole fit",
    "free_jax.baselines.setting": "features of a network, for its episodes",
    "free_jax.baselines.teacher": "dead leaves, to choose a teacher by",
    "free_jax.fewshot.evaluation": "an evaluator, once a classifier",
    "free_jax.interop.hub.check": "one network's answers, to hold against its source",
    "free_jax.inversion.jobs": "a list's program",
    "free_jax.panel.embed": "answers and features of each network",
    "free_jax.panel.partial_asking": "a list's program",
    "free_jax.panel.student": "`distil`: its state, its steps and its statistics",
    "free_jax.predictor": "predictions, one program a size of batch",
    "free_jax.remote.mlserver_model": "a served model's answers",
    "free_jax.zoo.attacks": "random teachers in the place of true ones",
}
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


# What a method or a network is called, compared with a word.
BY_NAME = re.compile(
    r"(algorithm[\"']?[\])]?|network\.name|student\.name|learner\.kind)\s*(==|!=)\s*[\"']"
)
# Former names of results.
MAY_COMPARE = {"experiments/evaluation/former_rows.py"}


def test_nobody_branches_by_the_name_of_a_method_or_a_network():
    assert BY_NAME.search('own.algorithm == "episodic"')
    assert BY_NAME.search("first[\"algorithm\"] != 'baselines'")
    files = [
        str(file.relative_to(ROOT))
        for package in ("free_jax", "experiments", "benchmarks")
        for file in (ROOT / package).rglob("*.py")
        if BY_NAME.search(file.read_text())
    ]
    assert set(files) == MAY_COMPARE


def functions(package):
    """Every function as ``module:function``, and its number of lines."""

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                name = f"{prefix}{child.name}"
                yield name, child.end_lineno - child.lineno + 1
                name += "."
            elif isinstance(child, ast.ClassDef):
                name = f"{prefix}{child.name}."
            yield from walk(child, name)

    for module, file in modules(package).items():
        yield from walk(ast.parse(file.read_text()), f"{module}:")


def test_functions_are_short_or_have_a_reason():
    every = [x for name in ("free_jax", "experiments") for x in functions(name)]
    long = {name: lines for name, lines in every if lines > WITHOUT_REASON}
    assert max(long.values()) <= LONGEST, long
    assert set(long) == set(LONG), f"too long, or short by now: {long}"


def jits(file):
    """Whether a module's code, not its texts, names JAX's compilation."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in ("jit", "pmap"):
            if isinstance(node.value, ast.Name) and node.value.id == "jax":
                return True
        elif isinstance(node, ast.ImportFrom) and node.module == "jax":
            if {"jit", "pmap"} & {alias.name for alias in node.names}:
                return True
    return False


def test_programs_are_compiled_where_it_is_said():
    every = modules("free_jax") | modules("experiments")
    assert {name for name, file in every.items() if jits(file)} == set(JITS)


def test_what_counts_as_compiling(tmp_path):
    file = tmp_path / "module.py"
    for code, wanted in {
        "import jax\ndef f(g):\n    return jax.jit(g)\n": True,
        "import jax\n@functools.partial(jax.jit, donate_argnums=0)\ndef f(): ...": True,
        "from jax import jit, vmap\n": True,
        "import jax\ndef f(jit=jax.jit): ...": True,
        "import jax\ndef f(g):\n    'Call it in `jax.jit`.'\n": False,
    }.items():
        file.write_text(code)
        assert jits(file) == wanted, code


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
