"""The page of a run: whole, self-contained, and readable in a browser."""

import base64
import html.parser
import io
import json
import shutil
import subprocess
import types
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from experiments import report
from experiments.evaluation import (
    likeness,
    run_page,
    run_sections,
    samples,
    teacher_sections,
)
from experiments.evaluation import report as report_lib
from experiments.harness import page, pictures
from experiments.harness.page import PAGE_FILE
from experiments.stages import recover
from free_jax import panel
from free_jax.panel import partial_answers
from free_jax.types import Answers, SyntheticImages

NASTY = "<script>alert('&')</script>\"|"
VOID = {"meta", "link", "img", "br"}


class Reader(html.parser.HTMLParser):
    """What a page holds; refuses tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.links, self.scripts = [], [], [], 0
        self.tables, self.titles, self.text = [], [], []
        self.feed(text.replace("<wbr>", ""))
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        known = dict(attrs)
        assert not any(name.startswith("on") for name in known)
        if tag == "img":
            self.images.append(known["src"])
        self.links += [known[name] for name in ("href", "action") if name in known]
        assert tag == "img" or "src" not in known
        self.scripts += tag == "script"
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append(0)
        if tag in ("td", "th"):
            self.tables[-1][-1] += 1

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.titles.append(data)
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)


def check(text):
    """Nothing from elsewhere, every picture decodes, every table is complete."""
    found = Reader(text)
    assert "http" not in text.replace("http://www.w3.org", "")
    for uri in found.images:
        kind, _, content = uri.partition(";base64,")
        data = base64.b64decode(content, validate=True)
        if kind == "data:image/svg+xml":
            ElementTree.fromstring(data)
        else:
            assert kind in ("data:image/png", "data:image/jpeg")
            Image.open(io.BytesIO(data)).verify()
    for link in found.links:
        assert link.startswith(("#", "data:,", "cells/")), link
    for rows in found.tables:
        assert len(rows) > 1 and len(set(rows)) == 1
    assert found.scripts == 1
    return found


def test_blocks_escape_whatever_they_hold():
    uri = "data:image/png;base64,"
    sections = [
        page.Section(
            NASTY,
            [
                page.paragraph(NASTY),
                page.table([{NASTY: NASTY}, {NASTY: 1.5}], (NASTY,)),
                page.figure(uri, NASTY),
                page.gallery([page.Picture(uri, NASTY, True, {"a": NASTY})], ("a",)),
                page.details(NASTY, page.code(NASTY), page.items([NASTY])),
                page.tiles([(NASTY, NASTY)]),
            ],
        ),
        page.Section("empty", []),
        *page.made([page.Part("broken", lambda: 1 / 0)]),
    ]
    text = page.page(NASTY, [NASTY], sections)
    found = Reader(text)
    assert found.scripts == 1 and found.titles == [NASTY, "broken"]
    assert found.text.count(NASTY) >= 9
    assert "Not made: division by zero" in found.text


@pytest.fixture(scope="module")
def panel_run(tmp_path_factory):
    """A finished panel's folder as a run leaves it, of made-up numbers."""
    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1, 2, -1], 12)
    images = SyntheticImages(
        rng.integers(0, 256, (48, 16, 16, 3), np.uint8),
        classes,
        np.where(classes < 0, -1, np.arange(48) % 3),
        classes < 0,
    )
    said = np.eye(3)[classes] + rng.normal(0, 0.3, (3, 48, 3))
    answers = Answers(np.concatenate(list(said), 1), np.asarray([0, 3, 6, 9]))
    names = samples.Names(
        ("fox", NASTY, "bee"), ("a", NASTY, "c"), ("conv4", "conv4", "resnet10")
    )
    shown = samples.chosen(names, images, answers)
    samples.write(folder / samples.SAMPLES_FILE, shown)
    cell = {"mean": 50.0, "ci95": 1.5, "per_episode": [50.0]}
    rows = [
        {"step": n, "distill_loss": 1 / n, "agreement": 0.1 * n} for n in range(1, 7)
    ]
    curve = [
        row
        | {
            "seconds": 60.0 * row["step"],
            "val_1shot_inductive": 40.0 + row["step"],
            "val_1shot_inductive_ci95": 1.0,
        }
        for row in rows[1::2]
    ]
    result = {
        "format": 2,
        "algorithm": "panel",
        "results": {"ours": {"1": {"transductive": cell, "inductive": cell}}},
        "steps": 6,
        "seconds": 360.0,
        "recovery_seconds": 12.0,
        "evaluation_seconds": 3.0,
        "images_recovered": 36,
        "curve": curve,
        "versions": {"jax": "1.2.3"},
        "command": f"python experiments/run.py --workdir='{NASTY}'",
        "cost": {
            "networks": [
                {"network": "conv4", "pixels": 16, "teachers": 3, "gflops": 0.5}
            ],
            "model": {"network": "conv4", "gflops": 0.5},
            "gradients": 360,
            "recovering_gflops": 180.0,
            "answers": 144,
            "asking_gflops": 72.0,
        },
    }
    told = {
        "weights": [1.0, 0.0, 1.0],
        "information": [0.5, 0.01, 0.6],
        "agreement": [0.9, "nan", 0.8],
        "recognised": [0.7, 0.2, 0.9],
        "left_out": ["", f"because {NASTY}", ""],
    }
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "config.json").write_text(json.dumps({"seed": 3, "note": NASTY}))
    (folder / "teachers.json").write_text(json.dumps(told))
    (folder / "table.md").write_text("procedural, test classes\n\n| a |\n")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(lines + '{"step": 7, "dist')
    return folder


def test_the_page_of_a_run(panel_run, capsys):
    pytest.importorskip("sklearn")
    before = (panel_run / "metrics.jsonl").read_text()
    assert report.main([f"--workdir={panel_run}"]) == 0
    assert (panel_run / "metrics.jsonl").read_text() == before
    captured = capsys.readouterr()
    assert PAGE_FILE in captured.out and not captured.err
    found = check((panel_run / PAGE_FILE).read_text())
    assert found.titles == [
        "Results",
        "Training",
        "Recovered images",
        "Teachers, and how far they were believed",
        "How differently teachers see the same images",
        "Cost",
        "Config, versions, and how to go on",
    ]
    text = " ".join(found.text)
    for wanted in (
        "50.00 ± 1.50 %",
        "2 of 3",
        f"because {NASTY}",
        "dead leaves",
        "jax 1.2.3; seed 3",
        "180",  # GFLOPs of recovery, in 12 s:
        "15",
        f"--workdir='{NASTY}'",
    ):
        assert wanted in text, wanted
    # Two curves of each of three kinds, 48 images, and three colourings.
    assert len(found.images) == 6 + 48 + 3
    assert sum(uri.startswith("data:image/png") for uri in found.images) == 48


def test_dead_leaves_are_not_counted_as_recovered(panel_run):
    """Neither with owners noted nor without, as in a memory."""
    sample = samples.read(panel_run)
    assert sample is not None
    told = teacher_sections.counted(sample)
    assert told.startswith("36 recovered images of 16x16 pixels, of classes and teach")
    assert "and 12 dead leaves (drawn at random, " in told
    bank = sample._replace(owners=("",) * 48)
    assert "36 recovered images of 16x16 pixels, of classes in turn" in (
        teacher_sections.counted(bank)
    )
    none = sample._replace(classes=tuple(filter(None, sample.classes)))
    assert "dead" not in teacher_sections.counted(none)


def test_long_names_break_between_their_parts_only():
    """In text; what a machine reads is whole."""
    name, uri = "zoo/mini_imagenet/a&b.conv4", "data:image/png;base64,"
    whole = "zoo/<wbr>mini_<wbr>imagenet/<wbr>a&amp;b.<wbr>conv4"
    assert page.flowing(name) == whole and page.flowing("WhiteBreasted") == (
        "White<wbr>Breasted"
    )
    assert page.flowing(0.123456) == "0.123" and page.flowing("no 1-shot a/b") == (
        "no 1-shot a/b"
    )
    picture = page.Picture(uri, page.lines(name, name), groups={"class": name})
    text = page.gallery([picture], ("class",))
    assert f"<figcaption>{whole}<br>{whole}</figcaption>" in text
    assert 'data-g0="zoo/mini_imagenet/a&amp;b.conv4"' in text
    assert text.count("<wbr>") == 8
    row = str(page.table([{name: name, "long": f"{name}/{name}"}], (name, "long")))
    assert row.count("<wbr>") == 9, "a table scrolls: only very long names break"
    shown = page.page(name, [name], [page.Section(name, [page.code(name)])])
    assert "<title>zoo/mini_imagenet/" in shown and f"<pre>{whole}</pre>" in shown


def test_what_is_being_made_is_said(panel_run, capsys, monkeypatch):
    seen = []
    update = page.Progress.update

    def noted(self, step, scalars=types.MappingProxyType({}), force=False):
        seen.append((step, scalars.get("making")))
        return update(self, step, scalars, force)

    monkeypatch.setattr(page.Progress, "update", noted)
    monkeypatch.setitem(__import__("sys").modules, "sklearn.manifold", None)
    assert run_page.write(panel_run)
    assert seen[:2] == [(0, "Results"), (1, "Training")] and seen[-1] == (7, None)
    assert capsys.readouterr().out.startswith("making report.html")


def test_without_scikit_learn_the_section_says_how_to_get_it(
    panel_run, monkeypatch, capsys
):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.manifold", None)
    assert run_page.write(panel_run)
    text = (panel_run / PAGE_FILE).read_text().replace("<wbr>", "")
    check(text)
    assert "pip install scikit-learn" in text


def test_a_page_never_fails_a_run(tmp_path, capsys):
    assert not run_page.write(tmp_path)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "result.json" in error
    assert report.main([f"--workdir={tmp_path}"]) == 2


def test_the_page_of_an_earlier_run_shows_keys_of_today(panel_run, tmp_path):
    folder = shutil.copytree(panel_run, tmp_path / "run")
    written = {
        "algorithm": "yardsticks",
        "distill": {"groups": 7},
        "eval": {"yardsticks": ["random"], "time_recovery": True},
        "seed": 3,
    }
    (folder / "config.json").write_text(json.dumps(written))
    assert report.main([f"--workdir={folder}"]) == 0
    shown = check((folder / PAGE_FILE).read_text()).text
    text = "".join(shown)
    assert '"ghost_batches": 7' in text and '"baselines": [' in text
    assert "yardsticks" not in text and "time_recovery" not in text
    assert json.loads((folder / "config.json").read_text()) == written


def test_what_was_not_counted_is_not_told_as_something_else():
    """A black box gives no gradients, however many images are recovered."""
    network = {"network": "conv4", "pixels": 16, "teachers": 3, "gflops": 0.5}
    counted = {"networks": [network], "model": network, "gradients": 0, "answers": 144}
    result = {"images_recovered": 987, "cost": counted, "recovery_seconds": 12.0}
    table, *rest = map(str, run_sections.costs(result, 0.0))
    assert "987" not in table and "144" in table
    assert "987 images were recovered" in " ".join(rest)
    assert "to choose some" not in table
    result["chosen_teachers"] = {"asked": 31, "asking_gflops": 2.5, "seconds": 3.0}
    asked = str(run_sections.costs(result, 0.0)[0])
    assert "to choose some" in asked and "31" in asked


def test_minutes_are_told_where_they_are_known():
    """From one judgement nobody can say when the first step was made."""
    rows = [{"step": step, "distill_loss": 1.0 / step} for step in (1, 2, 3)]
    once = {"curve": [{"step": 3, "seconds": 300.0}]}
    (alone,) = run_sections.training(once, rows)
    twice = {"curve": [{"step": 1, "seconds": 240.0}, {"step": 3, "seconds": 300.0}]}
    both, told = run_sections.training(twice, rows)
    assert alone.count("<img") == 1 and both.count("<img") == 2
    assert "Minutes hold" in told
    assert run_sections._minutes(twice["curve"], rows) == [4.0, 4.5, 5.0]


def test_samples_that_cannot_be_kept_cost_no_run(monkeypatch, tmp_path, capsys):
    def broken(*args):
        raise ValueError("no room")

    monkeypatch.setattr(samples, "chosen", broken)
    state = types.SimpleNamespace(state=None)
    meters = types.SimpleNamespace(queries_of=None)
    subject = types.SimpleNamespace(recovered=lambda state: None)
    method = types.SimpleNamespace(subject=subject, meters=meters)
    zoo = types.SimpleNamespace(class_names=(), sources=(), groups=())
    report_lib._kept_for_the_page(None, method, state, zoo)
    assert capsys.readouterr().err.startswith("note: samples of the page:")


def test_a_zoo_and_a_comparison_have_pages(tmp_path):
    zoo, both = tmp_path / "zoo", tmp_path / "both"
    zoo.mkdir()
    rows = [{"teacher": 0, "classes": NASTY, "held-out %": 71.5}]
    told = {"format": 2, "held_out_accuracy": 0.715, "teachers": rows}
    (zoo / "result.json").write_text(json.dumps(told))
    assert run_page.write(zoo)
    assert "71.5" in check((zoo / PAGE_FILE).read_text()).text
    cell = {"mean": 30.0, "ci95": 1.0, "by_seed": [30.0]}
    row = {
        "method": NASTY,
        "seeds": [0],
        "errors": {},
        "cell": "free",
        "selection": "last",
        "accuracy": {"1": {"inductive": cell}},
        "recovery_seconds": None,
        "images_recovered": 5,
        "meta_updates": 2,
        "wall_seconds": 60.0,
    }
    failed = {"method": "bidf", "seeds": [], "errors": {"0": f"no {NASTY}"}}
    for name in ("cells/free/seed0", "cells/bidf/seed0"):
        (both / name).mkdir(parents=True)
    (both / "cells/free/seed0" / PAGE_FILE).write_text("x")
    Image.new("RGB", (8, 8)).save(both / "cells/free/seed0/recovered.png")
    Image.new("RGB", (8, 8)).save(both / "recovery_time.png")
    (both / "cells/bidf/seed0/error.txt").write_text(f"Traceback\nInputError: {NASTY}")
    told = {"format": 2, "title": "all", "rows": [row, failed]}
    (both / "result.json").write_text(json.dumps(told))
    assert run_page.write(both)
    found = check((both / PAGE_FILE).read_text())
    assert "cells/free/seed0/report.html" in found.links and len(found.images) == 2
    assert any("failed" in text for text in found.text)


def test_views_of_the_same_teacher_are_the_same_whatever_its_classes():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(7, 4))
    twice = np.concatenate([logits, logits[:, [2, 0, 3, 1]] + 5.0], 1)
    first, second = likeness.views(twice, np.asarray([0, 4, 8]))
    np.testing.assert_allclose(first, second, atol=1e-9)
    np.testing.assert_allclose(np.diagonal(first), 1)


def test_few_images_of_a_class_are_drawn_and_dead_leaves_last(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        pictures, "save_grid", lambda file, grid, **how: drawn.update(how, grid=grid)
    )
    classes = np.asarray([1, 0, -1, 1, -1, 1])
    images = SyntheticImages(
        np.arange(6, dtype=np.uint8)[:, None, None, None]
        * np.ones((4, 4, 3), np.uint8),
        classes,
        classes,
        classes < 0,
    )
    zoo = types.SimpleNamespace(class_names=("fox", "bee"))
    recover.draw(tmp_path / "sheet.png", images, zoo)
    assert drawn["labels"] == ["fox", "bee", "dead leaves"]
    first = drawn["grid"][:, 0, 0, 0].reshape(3, 3)
    assert first.tolist() == [[1, 255, 255], [0, 3, 5], [2, 4, 255]]


def test_samples_of_partial_answers_are_of_images_that_all_compared_answered():
    classes = np.asarray([0, 0, 1, 1, 0])
    images = SyntheticImages(
        np.zeros((5, 4, 4, 3), np.uint8), classes, classes, np.zeros(5, bool)
    )
    logits = np.arange(5 * 4, dtype=np.float32).reshape(5, 4)
    whole = Answers(logits, np.asarray([0, 2, 4]))
    names = samples.Names(("fox", "bee"), ("a", "b"), ("conv4", "conv4"))
    both = np.asarray([[0, 1], [0, -1], [0, 1], [-1, 1], [0, -1]])
    some = samples.chosen(names, images, partial_answers.some_of(whole, both))
    order = samples._in_turn(np.stack([classes, classes], 1), 5)
    assert order[some.seen].tolist() == [0, 2]
    np.testing.assert_array_equal(some.logits, logits[[0, 2]])
    each = partial_answers.some_of(whole, np.asarray([[0], [1], [0], [1], [0]]))
    none = samples.chosen(names, images, each)  # No image was answered by both.
    assert len(none.images) == 5 and len(none.seen) == 0


def test_samples_take_every_class_and_teacher_in_turn():
    pairs = np.asarray([[0, 0]] * 50 + [[1, 2]] * 3 + [[-1, -1]] * 2)
    kept = samples._in_turn(pairs, 9)
    counts = np.unique(pairs[kept], axis=0, return_counts=True)[1]
    assert counts.tolist() == [2, 4, 3]
    assert pairs[kept[-1]].tolist() == [-1, -1]
    assert len(samples._in_turn(pairs[:0], 9)) == 0


def test_a_teacher_that_is_left_out_is_told_why():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 5, 200)
    owners = np.arange(200) % 4
    right = 9.0 * np.eye(5)[classes]
    said = [right, right, np.roll(right, 1, 1), np.zeros_like(right)]
    said[3] = said[3] + 1e-3 * rng.normal(size=right.shape)
    broken = right.copy()
    broken[7, 2] = np.inf
    logits = np.concatenate([*said, broken], 1)
    images = SyntheticImages(
        np.zeros((200, 2, 2, 3), np.uint8), classes, owners, np.zeros(200, bool)
    )
    # The third labels its own images by its own order.
    images.classes[owners == 2] = (classes[owners == 2] + 1) % 5
    answers = Answers(logits, 5 * np.arange(6))
    found = panel.trust(answers, np.tile(np.arange(5), 5), images)
    assert found.weights.tolist() == [1, 1, 0, 0, 0]
    assert found.left_out[:2] == ("", "")
    assert "of the others' images" in found.left_out[2]
    assert "recognise" in found.left_out[2]
    assert "nats about an image" in found.left_out[3]
    assert found.left_out[4] == "an answer of it is not finite"


def test_long_names_lose_their_middle():
    name = teacher_sections.short("a" * 30 + "b" * 30, 11)
    assert name == "aaaaa..bbbb" and len(name) == 11


PROBE = """
<script>
window.addEventListener("error", event => told.push(String(event.message)));
const told = [];
window.addEventListener("load", () => {
  const images = [...document.images];
  images[0]?.click();
  const state = {
    errors: told,
    broken: images.filter(x => !x.complete || !x.naturalWidth).length,
    images: images.length,
    large: document.querySelectorAll("dialog[open] img").length,
    width: document.documentElement.scrollWidth,
    view: document.documentElement.clientWidth,
    small: Math.min(...[...document.querySelectorAll("main p, main td")].map(
      x => parseFloat(getComputedStyle(x).fontSize))),
  };
  document.body.setAttribute("data-state", JSON.stringify(state));
});
</script>
"""


def seen_in(browser, text, width, folder):
    """What a browser says of a page at that width."""
    file = folder / f"probe{width}.html"
    # A headless window cannot be narrower than 500 pixels: a frame can.
    file.write_text(text.replace("<head>", f"<head>{PROBE}", 1))
    outer = folder / f"outer{width}.html"
    outer.write_text(
        f'<iframe id="f" src="{file.name}" style="border:0;width:{width}px;height:900px'
        '"></iframe><script>onload = () => setTimeout(() => { document.body.dataset.'
        "state = f.contentDocument.body.dataset.state }, 300)</script>"
    )
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width + 200},1000",
            "--virtual-time-budget=8000",
            "--enable-logging=stderr",
            "--dump-dom",
            outer.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    said = [x for x in done.stderr.splitlines() if ":CONSOLE" in x]
    dom = html.unescape(done.stdout)
    start = dom.index('data-state="') + len('data-state="')
    return json.JSONDecoder().raw_decode(dom[start:])[0], said


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_it(panel_run, tmp_path, width):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    assert run_page.write(panel_run)
    text = (panel_run / PAGE_FILE).read_text()
    state, said = seen_in(browser, text, width, tmp_path)
    assert said == [] and state["errors"] == [] and state["broken"] == 0
    assert state["images"] >= 54 and state["large"] == 1
    # A scrollbar takes its part.
    assert width - 20 <= state["view"] <= width and state["width"] <= state["view"]
    assert state["small"] >= 12
