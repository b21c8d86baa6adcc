"""Pages of docs, README and notes: links lead somewhere, what they name exists."""

import importlib
import importlib.util
import inspect
import re
from typing import Any

import pages
import pytest
import yaml

import free_jax
from experiments.harness import sections
from experiments.inputs import command_line
from experiments.methods import checks

ROOT = pages.ROOT
PAGES = pages.pages()
CONFIGS = ROOT / "experiments" / "configs"
RELEASED = "docs/reference/released_codes.md"
PACKAGES = (
    *("algorithms", "baselines", "fewshot", "interop", "inversion", "models"),
    *("panel", "release", "remote", "zoo"),
)
SOURCES = [
    file
    for room in ("free_jax", "experiments", "benchmarks")
    for file in sorted((ROOT / room).rglob("*.py"))
]
# A config named in a sentence: its file, and perhaps a variant.
CONFIG = re.compile(r"\b([a-z_0-9]+\.py)((?::[a-z_0-9=,]++)?+)(?![\w(])")
KEY = re.compile(r"--config\.([a-z_0-9.]*[a-z_0-9])")
CITED = re.compile(r"\(([\w ]+),\s*(?:# )?docs/reference/released_codes\.md\)")


def hooks() -> Any:
    """What `make docs` runs for each page."""
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs" / "hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def all_keys() -> set[str]:
    """Every key and section of every config."""
    rows = [
        row
        for record in hooks().records().values()
        for row in sections.document(record)
    ]
    keys = {row.key for row in rows}
    return keys | {key.rsplit(".", i)[0] for key in keys for i in range(1, 5)}


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_resolve(page):
    broken = []
    for link in pages.links(PAGES[page]):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (ROOT / page).parent / target if target else ROOT / page
        if not file.is_file():
            broken.append(link)
        elif anchor and anchor not in pages.anchors(file.read_text()):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", [p for p in PAGES if p.startswith("docs/")])
def test_pages_read_alike_on_the_site_and_in_the_repository(page):
    """A list needs an empty line before it, and a tag in a sentence is swallowed."""
    text = pages.FENCE.sub("", PAGES[page])
    lists = re.findall(r"(?m)^(?!\s|[-|>#*]|<!--).+\n- .*", text)
    assert not lists
    tags = re.findall(r"<(?!a id=|/a>|!--)[a-zA-Z/][^>]*>", pages.prose(PAGES[page]))
    assert not tags
    # Pages of the site cannot lead out of it.
    out = [x for x in pages.links(PAGES[page]) if "../BUILD" in x or "../README" in x]
    assert not out


def test_every_page_has_its_place_on_the_site():
    def files(nav):
        for entry in nav:
            value = entry if isinstance(entry, str) else next(iter(entry.values()))
            yield from [value] if isinstance(value, str) else files(value)

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = sorted(files(site["nav"]))
    assert listed == sorted(p.removeprefix("docs/") for p in PAGES if "docs/" in p)
    assert len(set(listed)) == len(listed) and site["strict"]
    # Quietly, mkdocs does not count the warnings that make --strict fail.
    (build,) = re.findall(r"mkdocs build.*", (ROOT / "Makefile").read_text())
    assert "--strict" in build and "-q" not in build


def test_front_pages_are_short():
    assert len(PAGES["README.md"].splitlines()) <= 120
    assert len(PAGES["BUILD_NOTES.md"].splitlines()) <= 150
    assert "make demo" in PAGES["README.md"] and "make test" in PAGES["README.md"]


def commands():
    """Every Python command of every page, once."""
    found = {}
    for page, text in PAGES.items():
        for words in pages.commands(text):
            found.setdefault(" ".join(words), (page, words))
    return [
        pytest.param(words, id=f"{page}: {key[:60]}")
        for key, (page, words) in found.items()
    ]


@pytest.mark.parametrize("words", commands())
def test_commands_name_files_flags_and_keys_that_exist(words):
    if words[0] == "-m":
        if words[1] == "venv":
            return
        file, rest = ROOT / f"{words[1].replace('.', '/')}.py", words[2:]
        if file.with_suffix("").is_dir():
            file = file.with_suffix("") / "__main__.py"
    else:
        file, rest = ROOT / words[0], words[1:]
    assert file.is_file(), words
    end = rest.index("--") if "--" in rest else len(rest)
    own, handed = rest[:end], rest[end + 1 :]
    if file.name == "run.py":
        check_run(own)
    else:
        # Options that several commands share are added by `inputs.hub`.
        shared = (ROOT / "experiments" / "inputs" / "hub.py").read_text()
        code = file.read_text() + shared + '"--help"'
        for flag in own:
            name = re.match(r"--(?:no-)?([\w-]+)", flag)
            assert not name or f'"--{name[1]}"' in code, (file.name, flag)
    if handed:
        check_run(handed)


def check_run(words):
    """A command line of run.py is understood; capital letters stand for paths."""
    if words == ["--help"]:
        return
    words = [word for word in words if word not in ("--help", "--check")]
    named = [word for word in words if word.startswith("--config=")]
    if not named:  # A row of a table has the rest.
        named_keys = KEY.findall(" ".join(words))
        assert named_keys and not set(named_keys) - all_keys()
        return
    if named[0] in ("--config=FILE.py", "--config=..."):
        return
    words = [word.replace(":what=NAME", ":what=base") for word in words]
    assert checks.validate(command_line.parse(["run.py", *words]).config)


def test_keys_named_anywhere_exist():
    former = PAGES["docs/how_to/add_a_method.md"], PAGES["docs/how_to/benchmark.md"]
    known = all_keys()
    for page, text in PAGES.items():
        if text in former:  # The method of the page; names of earlier versions.
            continue
        # A section that names a function holds its name and its keywords.
        named = {re.sub(r"\.(name|kwargs\..*)$", "", key) for key in KEY.findall(text)}
        # Names of a mapping are a config's own.
        named = {re.sub(r"^(zoos|methods)\..*$", r"\1", key) for key in named}
        assert not named - known - {"key"}, page


def test_configs_named_anywhere_exist():
    variants = {}
    for page, text in PAGES.items():
        for code in re.findall(r"`([^`]+)`", text):
            for name, variant in CONFIG.findall(code):
                if (CONFIGS / name).is_file() and variant:
                    variants.setdefault((name, variant[1:]), page)
    assert len(variants) > 10
    for (name, variant), page in variants.items():
        if variant.endswith("="):
            continue  # Its value is a capital word.
        assert command_line.load_config(str(CONFIGS / name), variant), (page, name)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    known = set(re.findall(r"(?m)^([a-z]+(?:-[a-z]+)*):", makefile))
    phony = re.search(r"(?m)^\.PHONY:(.*)$", makefile)
    assert phony and set(phony[1].split()) == known
    named = {page: set(pages.targets(text)) for page, text in PAGES.items()}
    assert not {page: rest for page, found in named.items() if (rest := found - known)}
    # What is looked for is found, in blocks and in sentences.
    assert named["CONTRIBUTING.md"] >= {"test", "test-all", "lint", "types", "docs"}
    assert set().union(*named.values()) >= known - {"clean"}
    assert pages.targets("```\nA=1 make -j2 x # y\n```\nand `make z`") == ["x", "z"]


def test_no_command_of_a_page_is_passed_over():
    """A command that is written where `pages.commands` does not look is not tested."""
    written = re.compile(r"(?<![\w/])python3? +((?:experiments|benchmarks)/\w+\.py)")
    for page, text in PAGES.items():
        seen = [words[0] for words in pages.commands(text)]
        typed = pages.COMMENT.sub("", text)
        typed = re.sub(r"(?ms)^ *```(?:python|diff)\n.*?```", "", typed)
        for file in written.findall(typed):
            assert file in seen, (page, file)


def results():
    claims = [p for p in PAGES if p.startswith("docs/results/") and "index" not in p]
    return [*claims, "docs/scaling.md"]


@pytest.mark.parametrize("page", results())
def test_a_result_says_claim_status_date_commit_and_command(page):
    text = PAGES[page]
    assert re.search(r"^> \*\*Claim\.\*\* .+[.]$", text, re.M)
    head = re.search(r"^> \*\*Status:\*\* (current|superseded|held-out).*$", text, re.M)
    assert head
    assert re.search(r"\*\*measured:\*\* .*20\d\d-\d\d-\d\d", head[0])
    assert re.search(r"`[0-9a-f]{7}`", head[0]) or "page of its claim" in head[0]
    named = re.search(r"benchmarks?[/.]|experiments/|make demo|configs/", text)
    assert pages.commands(text) or named
    # An exploration without a command is the lab notebook's.
    assert not re.search(r"script[s]? (?:that )?(?:is |was |were )?not kept", text)
    assert "throw-away" not in text
    title = text.split("\n", 1)[0][2:]
    assert title in PAGES["docs/results/index.md"]


def test_front_page_rests_on_no_lost_script():
    assert "not kept" not in PAGES["README.md"] and "notebook" not in PAGES["README.md"]


def test_what_code_cites_is_in_the_repository():
    labels = pages.anchors(PAGES[RELEASED])
    cited = set()
    for file in SOURCES:
        text = file.read_text()
        assert not re.search(r"\bspec(?:: [A-Z]{2}| section| [FPBC]\d)", text), file
        for page in re.findall(r"\bdocs/[\w/]+\.md\b", text):
            assert (ROOT / page).is_file(), (file, page)
        for label in CITED.findall(text):
            cited |= {(file.name, word) for word in label.lower().split(" to ")}
    assert {word for _, word in cited} >= {"klbad", "bnreg", "tv2", "f1", "f8", "b9"}
    assert not [(file, word) for file, word in cited if word not in labels]


def documented(value):
    """Whether a public thing says what it is; plain values need not."""
    if not (
        inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value)
    ):
        return True
    text = inspect.getdoc(value) or ""
    # NamedTuples and dataclasses make one of their fields.
    return bool(text) and not text.startswith(f"{value.__name__}(")


@pytest.mark.parametrize("package", ("", *PACKAGES))
def test_public_names_say_what_they_are(package):
    module = importlib.import_module(f"free_jax.{package}".rstrip("."))
    names = getattr(module, "__all__", [])
    assert names or package == "fewshot"
    assert not [name for name in names if not documented(getattr(module, name))]
    assert inspect.getdoc(module)


def test_every_package_has_its_page_of_the_api():
    for package in PACKAGES:
        text = PAGES[f"docs/reference/api/{package}.md"]
        assert f"::: free_jax.{package}" in text
    for page, text in PAGES.items():
        for name in re.findall(r"(?m)^::: (\S+)$", text):
            assert importlib.util.find_spec(name), (page, name)


def test_the_page_of_keys_holds_every_key():
    made = hooks()
    page = made.on_page_markdown(PAGES["docs/reference/configuration.md"])
    assert "<!-- keys" not in page
    for record in made.records().values():
        for row in sections.document(record):
            assert f"| `{row.key}` |" in page, row.key
            assert row.text or row.key in ("run", "algorithm"), row.key
    assert made.on_page_markdown("| 1.5 +- 0.2 |") == "| 1.5&nbsp;±&nbsp;0.2 |"


def test_one_version():
    latest = re.search(r"(?m)^## (\d+\.\d+\.\d+)", PAGES["CHANGELOG.md"])
    assert latest and latest[1] == free_jax.__version__
    for file in ("pyproject.toml", "CITATION.cff", "mkdocs.yml"):
        assert free_jax.__version__ not in (ROOT / file).read_text(), file
    assert (ROOT / "LICENSE").is_file()


def test_packages_of_the_library_and_of_the_experiments_are_apart():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(lines):
        return {re.split(r"[\[<>=~! ]", line)[0].lower() for line in lines}

    library = names(project["dependencies"])
    extra = names(project["optional-dependencies"]["experiments"])
    assert not library & extra
    # What is asked for in all, by the commands that everybody starts with.
    asked = {"jax", "flax", "optax", "chex", "orbax-checkpoint"}
    assert asked | {"tensorflow-datasets", "ml-collections"} <= library | extra
    makefile = (ROOT / "Makefile").read_text()
    assert '-e ".[experiments]"' in makefile
    assert "experiments,tpu" in PAGES["docs/how_to/tpu_and_hosts.md"]
    modules = {"ml_collections", "matplotlib", "tensorflow_datasets", "rich", "absl"}
    for file in (ROOT / "free_jax").rglob("*.py"):
        text = file.read_text()
        used = re.findall(r"(?m)^\s*(?:import|from) ([a-z_]+)", text)
        assert not modules & set(used), file


def test_doctests_are_shown_as_code():
    pytest.importorskip("griffe", reason="of the extra `docs`")
    file = ROOT / "docs" / "griffe_docstrings.py"
    spec = importlib.util.spec_from_file_location("griffe_docstrings", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shown = module.as_code("Adds.\n\n>>> 1 + 1\n2\n\nMore.")
    assert shown == "Adds.\n\n```python\n>>> 1 + 1\n2\n```\n\nMore."
