"""Predictions about own pictures: by the library, and by the command line."""

import csv
import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from PIL import Image

from experiments import classify as command
from experiments.data import folder, listing
from experiments.evaluation import predictions as report
from free_jax import classify, images, make_network, predictor, save_model
from free_jax.errors import InputError
from free_jax.fewshot import heads, learners
from free_jax.panel import model as distilled

WAY = 3
COLOURS = {"blue": (10, 20, 220), "green": (0, 200, 30), "red": (220, 10, 0)}
NOTES = {"learner": {"kind": "maml", "inner_lr": 0.05, "test_steps": 3}}
LABELS = np.asarray([2, 0, 1, 1, 2, 0], np.int32)


def variables_of(network):
    """Of one untrained network, drawn by NumPy."""
    stacked = toy.random_teachers(network, 1).variables
    return jax.tree.map(lambda x: x[0], stacked)


def with_descriptions(variables, heads_of):
    how = {"weights": jnp.ones(heads_of), "temperature": jnp.float32(1)}
    return {**variables, "descriptions": how}


PANEL = dataclasses.replace(toy.TINY, num_classes=2 * toy.WAY)


@pytest.fixture(scope="module")
def panel_variables():
    return with_descriptions(variables_of(PANEL), 2)


@pytest.fixture(scope="module")
def meta_variables():
    return {"params": variables_of(toy.TINY)["params"]}


@pytest.fixture(scope="module")
def task():
    """Six support images of three classes, and seven pictures."""
    bank = (255 * toy.patterns()).astype(np.uint8)
    rng = np.random.default_rng(0)

    def noisy(labels):
        noise = rng.integers(-30, 30, (len(labels), *toy.SHAPE))
        return np.clip(bank[labels] + noise, 0, 255).astype(np.uint8)

    return noisy(LABELS), noisy(np.asarray([0, 1, 2, 2, 1, 0, 1]))


HEAD_OF = {
    "centroid": heads.centered(heads.nearest_centroid(WAY), "none"),
    "ridge": heads.centered(heads.ridge(WAY), "none"),
    "soft_kmeans": heads.centered(heads.soft_kmeans(WAY), "episode"),
    "balanced_kmeans": heads.centered(
        heads.soft_kmeans(WAY, sharpness=20.0, prior="balanced"), "episode"
    ),
}


@pytest.mark.parametrize("head", HEAD_OF)
def test_scores_of_a_distilled_model_are_those_of_its_heads(
    panel_variables, task, head
):
    support, pictures = task
    # In chunks of four: two programs' worth of pictures, padded, through one.
    found = classify(
        PANEL, panel_variables, NOTES, support, LABELS, pictures, head=head, size=4
    )
    embed = jax.jit(lambda x: distilled.embed(PANEL, panel_variables, x))
    rows, queries = (embed(jnp.asarray(x)) for x in task)
    expected = jax.nn.softmax(10 * HEAD_OF[head](rows, jnp.asarray(LABELS), queries))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-5)


def test_a_distilled_model_adapts_as_its_notes_say(panel_variables, task):
    support, pictures = task
    notes = {"learner": {**NOTES["learner"], "test_lr": 0.02, "head_scale": 5.0}}
    found = classify(
        PANEL, panel_variables, notes, support, LABELS, pictures, head="adapt"
    )

    @jax.jit
    def expected(variables):
        adapted = distilled.adapt(
            PANEL,
            variables,
            jnp.asarray(support),
            jnp.asarray(LABELS),
            way=WAY,
            num_steps=3,
            learning_rate=0.02,
            scale=5.0,
        )
        return jax.nn.softmax(
            5 * distilled.classify(PANEL, adapted, jnp.asarray(pictures))
        )

    np.testing.assert_allclose(found, expected(panel_variables), rtol=1e-3, atol=1e-5)


def test_a_meta_learned_model_adapts_as_it_was_tested(meta_variables, task):
    support, pictures = task
    # Two classes of a model of three outputs: the third means nothing.
    two = LABELS < 2
    found = classify(
        toy.TINY, meta_variables, NOTES, support[two], LABELS[two], pictures
    )
    learner = learners.maml(toy.TINY, inner_lr=0.05, num_steps=3)

    @jax.jit
    def expected(params):
        shown = [images.to_float(jnp.asarray(x)) for x in (support[two], pictures)]
        adapted = learner.adapt(params, shown[0], jnp.asarray(LABELS[two]))
        logits = learner.predict(adapted, shown[1], norm="running")
        return jax.nn.softmax(logits[:, :2])

    assert found.shape == (7, 2)
    np.testing.assert_allclose(
        found, expected(meta_variables["params"]), rtol=1e-3, atol=1e-5
    )


def test_a_protonet_takes_any_number_of_classes(meta_variables, task):
    """By its features: distances, and cosines."""
    support, pictures = task
    labels = np.asarray([0, 1, 2, 3, 3, 4], np.int32)
    learner = {"learner": {"kind": "protonet"}}
    given = (toy.TINY, meta_variables, learner, support, labels, pictures)

    @jax.jit
    def features(params):
        apply, x = toy.TINY.apply_with_moments, images.to_float(jnp.asarray(support))
        rows, moments = apply({"params": params}, x, norm="batch", features=True)
        normalised = {"params": params, "batch_stats": moments}
        queries = toy.TINY.apply(normalised, jnp.asarray(pictures), features=True)
        return rows, queries

    rows, queries = map(np.asarray, features(meta_variables["params"]))

    def means(rows):
        return np.stack([rows[labels == c].mean(0) for c in range(5)])

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def softmax(x):
        powers = np.exp(x - x.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    gaps = np.square(queries[:, None] - means(rows)).sum(-1)
    np.testing.assert_allclose(classify(*given), softmax(-gaps), rtol=1e-3, atol=1e-4)
    cosines = unit(queries) @ unit(means(unit(rows))).T
    np.testing.assert_allclose(
        classify(*given, head="centroid"), softmax(10 * cosines), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("head", predictor.HEADS)
def test_only_soft_k_means_looks_at_the_other_pictures(panel_variables, task, head):
    support, pictures = task
    fitted = predictor.fit(
        PANEL, panel_variables, NOTES, support, LABELS, head=head, size=4
    )
    every = predictor.predict(fitted, [pictures[:4], pictures[4:]])
    alone = predictor.predict(fitted, [pictures[5:6]])
    same = np.allclose(np.log(every[5:6]), np.log(alone), atol=1e-3)
    assert same == fitted.is_inductive == ("kmeans" not in head)
    assert predictor.predict(fitted, []).shape == (0, WAY)


def test_pictures_of_any_size_and_range(panel_variables, task):
    support, pictures = task
    large = np.repeat(np.repeat(pictures, 2, 1), 2, 2)[:, :, :30] / np.float32(255)
    small = np.asarray(images.fit_to(jnp.asarray(large), toy.SHAPE))
    fitted = predictor.fit(PANEL, panel_variables, NOTES, support, LABELS)
    np.testing.assert_allclose(
        predictor.predict(fitted, [large]),
        predictor.predict(fitted, [small]),
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(InputError, match="divide by 255"):
        predictor.predict(fitted, [1.0 * pictures])


def test_what_cannot_be_fitted_is_refused(panel_variables, meta_variables, task):
    support, _ = task

    def refused(
        match,
        labels=LABELS,
        variables=meta_variables,
        notes=NOTES,
        network=toy.TINY,
        **k,
    ):
        with pytest.raises(InputError, match=match):
            predictor.fit(network, variables, notes, support, labels, **k)

    refused("names 1 class;", labels=0 * LABELS)
    refused("class 1 of 3 has no image", labels=LABELS * (LABELS != 1))
    refused("labels from 0 to 2 for 2 classes", way=2)
    refused("choose among centroid", head="best")
    refused("at once: give at least 1", size=0)
    six = np.arange(6, dtype=np.int32)
    refused("names 6 classes and the model has outputs for 3", labels=six)
    refused("adapts by 'dreaming'", notes={"learner": {"kind": "dreaming"}})
    how = {"weights": jnp.ones(2)}
    without = {**panel_variables, "descriptions": how}
    refused("descriptions lack temperature", variables=without, network=PANEL)
    refused("do not fit its architecture", variables=panel_variables, head="ridge")
    blind = dataclasses.replace(toy.TINY, gives=frozenset({"gradients"}))
    refused("asks for features", network=blind, head="ridge")
    notes = {"learner": {"inner_lr": 1e30, "test_steps": 3}}
    wild = predictor.fit(toy.TINY, meta_variables, notes, support, LABELS, size=6)
    with pytest.raises(InputError, match="not finite with head 'adapt'"):
        predictor.predict(wild, [support])


# Files of pictures.


def put(path, colour=(0, 0, 0), size=(20, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, tuple(colour)).save(path)


def test_pictures_are_read_as_people_see_them(tmp_path):
    colour = np.zeros((8, 8, 3), np.uint8) + np.asarray([200, 0, 0], np.uint8)
    mask = np.full((8, 8, 1), 255, np.uint8)
    mask[:, 4:] = 0
    picture = np.concatenate([colour, mask], -1)
    Image.fromarray(picture).save(tmp_path / "alpha.png")
    grey = picture[..., [0, 3]].copy()
    Image.fromarray(grey, "LA").save(tmp_path / "grey.png")
    palette = Image.fromarray(picture[:, :4, :3]).quantize(2)
    palette.save(tmp_path / "palette.png", transparency=b"\x00\x00")
    deep = np.full((8, 8), 0x5A10, np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.tif")

    def read(name, **kwargs):
        image = folder.open_image(tmp_path / name, **kwargs)
        return folder.resized(image, (8, 8))

    seen = read("alpha.png", as_seen=True)
    assert (seen[:, :4] == [200, 0, 0]).all() and (seen[:, 4:] == 255).all()
    assert (read("alpha.png") == [200, 0, 0]).all()  # as ImageFolder reads it
    seen = read("grey.png", as_seen=True)
    assert (seen[:, :4] == 200).all() and (seen[:, 4:] == 255).all()
    assert (read("palette.png", as_seen=True) == 255).all()
    assert (read("deep.tif", as_seen=True) == 0x5A).all()
    # A photograph held upright: the sensor's left column is the picture's top.
    turned = Image.fromarray(np.where(np.arange(8)[None, :, None] < 4, colour, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    seen = read("turned.png", as_seen=True)
    assert (seen[:4] == [200, 0, 0]).all() and not seen[4:].any()
    assert not read("turned.png")[:, 4:].any()
    floats = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(floats).save(tmp_path / "floats.tif")
    with pytest.raises(InputError, match=r"floats.tif: .*pixels are floats"):
        read("floats.tif", as_seen=True)
    deep = folder.open_image(tmp_path / "deep.tif")
    assert folder.resized(deep, (4, 6)).shape == (4, 6, 3)


def test_pictures_below_a_folder(tmp_path):
    root = tmp_path / "mine"
    for name in ("b/2.png", "b/c/1.PNG", "a.jpg", ".hidden/x.png", "_a/._1.png"):
        put(root / name) if "._" not in name else None
    put(tmp_path / "outside" / "x.png")
    (root / "notes.txt").write_text("x")
    (root / "b" / "away").symlink_to(tmp_path / "outside")
    (root / "b" / "x.png").symlink_to(tmp_path / "outside" / "x.png")
    (root / "b" / "y.png").symlink_to(root / "a.jpg")
    (root / "loop.png").symlink_to("loop.png")
    (root / "again").symlink_to(root)
    found = listing.list_pictures(root)
    assert found.names == ("a.jpg", "b/2.png", "b/c/1.PNG", "b/y.png")
    assert set(found.strays) == {
        *("again", "b/away", "b/x.png", "loop.png", "notes.txt"),
    }


# The command.


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model file; plain colours are told apart by any weights."""
    path = tmp_path_factory.mktemp("model") / "model.npz"
    network = make_network("conv4", num_classes=6, image_shape=(16, 16, 3), width=4)
    variables = with_descriptions(variables_of(network), 2)
    save_model(path, network, variables, algorithm="panel", **NOTES)
    return path


@pytest.fixture
def support(tmp_path):
    for name, colour in COLOURS.items():
        put(tmp_path / "support" / name / "0.png", colour)
    put(tmp_path / "support" / "red" / "1.png", (200, 30, 30), (7, 30))
    return tmp_path / "support"


@pytest.fixture
def run(tmp_path, model, support, capsys):
    """``run(*options, **paths) -> exit status, stdout, stderr``."""

    def call(*options, **paths):
        chosen = {
            "model": model,
            "support": support,
            "images": tmp_path / "pictures",
            "out": tmp_path / "found.csv",
            **paths,
        }
        arguments = [f"--{name}={value}" for name, value in chosen.items()]
        status = command.main([*arguments, *options])
        return status, *capsys.readouterr()

    return call


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_a_spreadsheet_computes_no_name():
    scores = np.asarray([0.25, 0.75], np.float32)
    said = [
        report.Prediction("=HYPERLINK(1).png", scores),
        report.Prediction("@b.png", None),
    ]
    rows = list(csv.reader(report.as_csv(said, ("+x", "dog")).splitlines()))
    assert rows[0][-2:] == ["'+x", "dog"]
    assert [row[0] for row in rows[1:]] == ["'=HYPERLINK(1).png", "'@b.png"]
    said = [report.Prediction("a.png", scores[::-1])]
    assert report.as_csv(said, ("-x", "dog")).splitlines()[1].split(",")[1] == "'-x"


def test_a_folder_of_pictures(run, tmp_path):
    pictures = tmp_path / "pictures"
    put(pictures / "z.png", (0, 180, 0))
    put(pictures / "deep" / "r,é <b>.png", (230, 0, 10), (1, 1))
    put(pictures / "b.bmp", (0, 0, 255), (300, 5))
    (pictures / "broken.jpg").write_bytes(b"no picture")
    status, out, err = run("--batch=2")
    assert status == 0, err
    head, *rows = table(tmp_path / "found.csv")
    assert head == ["image", "predicted", "score", *COLOURS]
    assert [row[:2] for row in rows] == [
        ["b.bmp", "blue"],
        ["broken.jpg", ""],
        ["deep/r,é <b>.png", "red"],
        ["z.png", "green"],
    ]
    assert rows[1] == ["broken.jpg", "", "", "", "", ""]
    for row in (rows[0], *rows[2:]):
        scores = [float(cell) for cell in row[3:]]
        assert float(row[2]) == max(scores) == scores[list(COLOURS).index(row[1])]
        assert sum(scores) == pytest.approx(1, abs=1e-5)
    assert "each picture is treated alone" in out
    assert err.count("\n") == 1 and "no prediction for 1 of 4 pictures" in err
    page = (tmp_path / "found.html").read_text(encoding="utf-8")
    assert "r,é &lt;b&gt;.png" in page and "<b>" not in page
    # Four support pictures and three others; nothing is fetched from elsewhere.
    assert page.count('src="data:image/jpeg;base64,') == page.count("src=") == 7
    assert not (tmp_path / "found.json").exists()


def test_labelled_pictures(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    put(tmp_path / "pictures" / "red" / "1.png", (230, 0, 10))
    put(tmp_path / "pictures" / "red" / "more" / "2.png", (200, 10, 0))
    put(tmp_path / "pictures" / "red" / "3.png", (0, 0, 230))  # is none
    put(tmp_path / "pictures" / "green" / "1.png", (10, 210, 0))
    status, out, err = run(
        "--labelled", "--head=centroid", images="~/pictures", out="~/new.csv"
    )
    assert status == 0, err
    assert "accuracy 75.0 % (3 of 4 pictures; 95 % interval 30.1 to 95.4" in out
    assert "it is one episode" in out
    record = json.loads((tmp_path / "new.json").read_text())
    assert record["confusion"] == [[0, 0, 0], [0, 1, 0], [1, 0, 2]]
    assert record["classes"] == list(COLOURS) and record["episodes"] == 1
    assert (record["correct"], record["pictures"]) == (3, 4)
    assert record["inductive"] and record["head"] == "centroid"
    page = (tmp_path / "new.html").read_text()
    assert page.count('class="wrong"') == 1 and "is red" in page


def test_one_picture(run, tmp_path):
    Image.new("L", (3, 3), 0).save(tmp_path / "photo", format="PNG")
    status, out, err = run("--head=soft_kmeans", images=tmp_path / "photo")
    assert (status, err) == (0, "") and "transductive" in out
    assert [row[0] for row in table(tmp_path / "found.csv")] == ["image", "photo"]


def test_what_is_refused_before_anything_is_computed(
    run, tmp_path, support, model, monkeypatch
):
    def fail(*args, **kwargs):
        raise AssertionError("something was computed")

    def deny(dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr(predictor, "fit", fail)
    good = tmp_path / "pictures"
    put(good / "red" / "1.png")

    def refused(match, *options, **paths):
        status, out, err = run(*options, **paths)
        assert status == 2 and not out, err
        lines = [x for x in err.splitlines() if "passed over" not in x]
        assert len(lines) == 1 and match in lines[0], err
        assert not list(tmp_path.glob("found.*"))

    refused("no such folder", support=tmp_path / "none")
    refused("is a file", support=model)
    refused("no such file or folder", images=tmp_path / "none")
    (tmp_path / "empty").mkdir()
    refused("holds no class folders", support=tmp_path / "empty")
    refused("no pictures in it", images=tmp_path / "empty")
    put(tmp_path / "single" / "cat" / "1.png")
    refused("one class only ('cat')", support=tmp_path / "single")
    (tmp_path / "single" / "dog").mkdir()
    refused("no picture in the class folder 'dog'", support=tmp_path / "single")
    (tmp_path / "single" / "cat" / "1.png").unlink()
    refused("no picture in the class folder 'cat'", support=tmp_path / "single")
    put(tmp_path / "flat" / "1.png")
    refused("holds no class folders", support=tmp_path / "flat")
    refused("stands in no folder", "--labelled", images=tmp_path / "flat")
    put(good / "pink" / "1.png")
    refused("'pink' of", "--labelled")
    (support / "red" / "2.png").write_bytes(b"no picture")
    refused("red/2.png: not a readable image")
    (support / "red" / "2.png").unlink()
    refused("give a file whose name ends in .csv", out=tmp_path / "found.png")
    (tmp_path / "file").write_text("")
    refused("cannot be written", out=tmp_path / "file" / "found.csv")
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", deny)
        refused("cannot be written to (Permission denied)")
    (tmp_path / "taken.html").mkdir()
    refused("taken.html is a folder", out=tmp_path / "taken.csv")
    refused("--batch=0", "--batch=0")
    refused("not a model saved by free_jax", model=support / "red" / "0.png")
    refused("No such file", model=tmp_path / "none.npz")
    later = make_network("conv4", num_classes=2, image_shape=(16, 16, 3))
    later = dataclasses.replace(later, kwargs=(("aura", 1),))
    save_model(tmp_path / "later.npz", later, {"params": {"x": np.ones(1)}})
    refused("aura", model=tmp_path / "later.npz")


def test_no_readable_picture_at_all(run, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "x.png").write_bytes(b"")
    status, _, err = run()
    assert status == 2 and err.count("\n") == 1 and "no picture is readable" in err


def test_an_unknown_head_is_refused(run):
    with pytest.raises(SystemExit) as stopped:
        run("--head=best")
    assert stopped.value.code == 2


def test_many_classes_are_not_printed_against_each_other():
    said = [report.Prediction("x", np.eye(20)[3])]
    names = [f"class {n}" for n in range(20)]
    judged = report.judge(said, [3], 20)
    assert report.judgement_text(judged, names).count("\n") == 0
    assert judged.confusion[3, 3] == judged.total == judged.correct == 1
    few = report.judge(said, [3], 20)._replace(confusion=judged.confusion[:4, :4])
    assert report.judgement_text(few, names[:4]).splitlines()[-1].endswith(" 1")


def test_the_module_names_its_command():
    assert pathlib.Path(command.__file__).name in (command.__doc__ or "")


def test_the_page_counts_what_it_does_not_show():
    scores = np.asarray([0.9, 0.1])
    said = [
        report.Prediction("a.png", scores, "data:,"),
        report.Prediction("b.png", scores),
        report.Prediction("c.png", None),
    ]
    page = report.as_page(said, ("fox", "owl"), [], about="")
    assert "Predicted: 2 (1 of them shown)" in page and "Predicted: none" in page
    assert "1 more pictures are in the CSV" in page
