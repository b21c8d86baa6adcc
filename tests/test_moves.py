"""A run that moves: other paths, devices and caches, the same contents and results."""

import json
import os
import shutil

import harness_toy
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from PIL import Image

from experiments import inputs, pretrain_zoo, train
from experiments.evaluation import final
from experiments.harness import same_run, stopping
from experiments.harness import workdir as workdir_lib
from experiments.harness.contents import Content
from experiments.inputs import command_line, contents
from experiments.inputs.options import DataOptions
from experiments.methods import checks, identity
from experiments.stages import reuse
from free_jax import Teachers, Zoo, ZooGroup, make_network, save_zoo
from free_jax.errors import InputError

# ------------------------------------------------------------- what a run is known by


def claimed(folder, config, *, now, needed=("images",), key="data", **options):
    content = Content((key,), now, needed)
    workdir_lib.claim_workdir(
        folder, config, contents={"pictures": content}, **options
    ).release()


@pytest.fixture
def used(tmp_path):
    """A run that has left something."""
    config = {"seed": 0, "data": "here", "devices": 1}
    claimed(tmp_path, config, now={"images": "a", "more": "x"})
    (tmp_path / "metrics.jsonl").write_text("")
    return tmp_path, config


def test_a_path_may_change_where_its_content_is_the_same(used):
    folder, config = used
    moved = config | {"data": "there"}
    claimed(folder, moved, now={"images": "a", "more": "x"})
    first, second = (same_run.hashes(folder, c) for c in (config, moved))
    assert first[0] in second and second[0] != first[0], "what was finished stays so"
    again = config | {"data": "elsewhere"}
    claimed(folder, again, now={"images": "a", "more": "x"})
    assert first[0] in same_run.hashes(folder, again)


def test_another_content_is_refused_where_results_depend_on_it(used):
    folder, config = used
    for data in ("here", "there"):
        with pytest.raises(InputError, match="content of the pictures has changed"):
            claimed(folder, config | {"data": data}, now={"images": "b", "more": "x"})
    # What only measures may change, and is measured anew.
    claimed(folder, config | {"data": "there"}, now={"images": "a", "more": "y"})
    assert len(same_run.hashes(folder, config | {"data": "there"})) == 1
    with pytest.raises(InputError, match="run of another config: seed: 0 -> 1"):
        claimed(folder, config | {"seed": 1}, now={"images": "a"})
    # Where nothing was, the path says it.
    with pytest.raises(InputError, match="another config: data: there -> "):
        claimed(folder, config | {"data": ""}, now={})


def test_a_run_of_an_earlier_version_is_known_by_its_paths(used):
    folder, config = used
    (folder / "format.json").write_text(json.dumps({"keys": 2}))
    with pytest.raises(InputError, match="another config: data: here -> there"):
        claimed(folder, config | {"data": "there"}, now={"images": "a"})
    claimed(folder, config, now={"images": "a"})
    claimed(folder, config | {"data": "there"}, now={"images": "a"})


def test_where_a_run_works_changes_no_result(used):
    folder, config = used
    other = config | {"devices": 8}
    with pytest.raises(InputError, match="devices: 1 -> 8"):
        claimed(folder, other, now={"images": "a"})
    claimed(folder, other, now={"images": "a"}, elsewhere=("devices",))
    assert same_run.hashes(folder, config)[0] in same_run.hashes(folder, other)


def test_what_is_known_later_is_compared_then(tmp_path):
    config = {"source": "here"}

    def claim(source, found):
        now = config | {"source": source}
        claimed(tmp_path, now, now=None, key="source", needed=("weights",))
        known = {"pictures": Content(("source",), {"weights": found}, ("weights",))}
        same_run.confirm(tmp_path, now, known)
        return same_run.hashes(tmp_path, now)

    first = claim("here", "a")
    (tmp_path / "metrics.jsonl").write_text("")
    # Claimed, but not seen yet: nothing says that it is the same run.
    late = config | {"source": "there"}
    claimed(tmp_path, late, now=None, key="source", needed=("weights",))
    assert len(same_run.hashes(tmp_path, late)) == 1
    assert first[0] in claim("there", "a")
    for source in ("there", "nowhere"):
        with pytest.raises(InputError, match="weights: a -> b"):
            claim(source, "b")
    assert first[0] in claim("at last", "a"), "what was refused leaves no trace"
    assert first[0] in claim("here", "a")


def test_looking_at_a_folder_writes_nothing(used, tmp_path):
    folder, config = used
    content = {"pictures": Content(("data",), {"images": "a"}, ("images",))}

    def state(path):
        return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in path.iterdir()}

    before = state(folder)
    moved = config | {"data": "there"}
    assert workdir_lib.check_workdir(folder, moved, contents=content) == "continued"
    with pytest.raises(InputError, match="seed: 0 -> 1"):
        workdir_lib.check_workdir(folder, config | {"seed": 1}, contents=content)
    with (
        workdir_lib.claim_workdir(folder, config, contents=content),
        pytest.raises(InputError, match="in use by another run"),
    ):
        before = state(folder)
        workdir_lib.check_workdir(folder, config, contents=content)
    assert state(folder) == before
    assert workdir_lib.check_workdir(tmp_path / "a" / "b", config) == "new"
    assert not (tmp_path / "a").exists()
    for bad in (folder / "metrics.jsonl", folder / "metrics.jsonl" / "under"):
        with pytest.raises(InputError, match="not a folder"):
            workdir_lib.check_workdir(bad, config)
    with pytest.raises(InputError, match="cannot be written"):
        workdir_lib.check_workdir("/proc/nothing", config)


def test_a_copied_checkpoint_is_known_by_what_its_run_was_made_from(tmp_path):
    for name, images in (("a", "1"), ("b", "2")):
        (tmp_path / name).mkdir()
        claimed(tmp_path / name, harness_toy.CONFIG, now={"images": images}, key="seed")
    harness_toy.train(tmp_path / "a", 2)
    shutil.copytree(tmp_path / "a" / "checkpoints", tmp_path / "b" / "checkpoints")
    with pytest.raises(InputError, match="pictures/images: 1 -> 2"):
        harness_toy.train(tmp_path / "b")
    # The same run at another place goes on.
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    assert harness_toy.train(tmp_path / "c").steps == 6


# ---------------------------------------------------------------- what folders hold


def pictures(folder, splits=("val", "test"), classes=5, count=4, seed=0):
    rng = np.random.default_rng(seed)
    for split in splits:
        for number in range(classes):
            target = folder / split / f"class{number}"
            target.mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(image).save(target / f"{i}.bmp")  # Of one size.
    return folder


def test_a_split_is_known_by_what_it_holds(tmp_path):
    first = pictures(tmp_path / "a")
    shutil.copytree(first, tmp_path / "b")
    second = tmp_path / "b"
    os.utime(second / "test" / "class0" / "0.bmp", (0, 0))
    (second / "test" / ".DS_Store").write_text("")

    def sign(folder):
        return contents.of_split(folder / "test")

    before = sign(first)
    assert sign(second) == before, "times, strays and places do not matter"
    one = second / "test" / "class0" / "0.bmp"
    kept = one.read_bytes()
    one.write_bytes(kept[:-1] + b"!")  # The same size.
    assert sign(second) != before
    one.write_bytes(kept)
    assert sign(second) == before
    (second / "test" / "class0").rename(second / "test" / "class9")
    assert sign(second) != before
    both = contents.of_data(DataOptions(path=str(first)), ("val",))
    assert set(both.parts) == {"val", "test"} and both.parts["test"] == before
    assert contents.of_data(DataOptions("procedural"), ("val",)).parts == {}


# ------------------------------------------------------------------------- whole runs

SMALL = [
    "--config.student.kwargs.width=4",
    "--config.recover.images_per_teacher=5",
    "--config.recover.inversion.num_steps=1",
    "--config.recover.dead_leaves=4",
    "--config.num_steps=2",
    "--config.distill.batch_size=4",
    "--config.panel.trust=False",
    "--config.eval.episodes=2",
    "--config.eval.val_episodes=0",
    "--config.eval.shots=(1,)",
    "--config.eval.queries=2",
    "--config.eval.baselines=()",
    "--config.learner.test_steps=1",
]


def zoo_of(seed=0):
    arch = make_network("conv4", num_classes=5, image_shape=(16, 16, 3), width=4)
    teachers = toy.random_teachers(arch, 2, seed=seed)
    ids = jnp.arange(10, dtype=jnp.int32).reshape(2, 5)
    group = ZooGroup(
        arch, Teachers(teachers.variables, ids), np.full(2, np.nan), "somewhere"
    )
    return Zoo((group,), tuple(f"class {i}" for i in range(10)))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Teachers and pictures, here and copied elsewhere; others of the same layout."""
    here, there = (tmp_path_factory.mktemp(name) for name in ("here", "there"))
    save_zoo(zoo_of(), here / "zoo")
    pictures(here / "data")
    for name in ("zoo", "data"):
        shutil.copytree(here / name, there / f"{name}-copy")
    save_zoo(zoo_of(1), there / "zoo-other")
    pictures(there / "data-other", seed=1)
    return here, there


def config_of(zoo, *extra, data=""):
    argv = ["run.py", "--config=experiments/configs/panel.py", *SMALL]
    argv += [f"--config.zoo.path={zoo}", f"--config.data.path={data}", *extra]
    return command_line.parse(argv).config


@pytest.fixture(scope="module")
def finished(places, tmp_path_factory):
    """A finished, measured run; tests copy it."""
    here, _ = places
    folder = tmp_path_factory.mktemp("finished") / "run"
    result = train.main(config_of(here / "zoo", data=here / "data"), str(folder))
    return folder, result


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run", finished[1]


def model_of(folder):
    with np.load(folder / "model.npz") as stored:
        return {name: stored[name] for name in stored.files if name != "header"}


@pytest.mark.slow
def test_an_interrupted_run_goes_on_elsewhere(places, finished, tmp_path, monkeypatch):
    here, there = places
    with monkeypatch.context() as patch:
        patch.setattr(stopping.StopRequest, "reached", lambda self, step: step == 1)
        first = config_of(here / "zoo", data=here / "data")
        assert train.main(first, str(tmp_path / "run")) == {"stopped_at": 1}
    shutil.move(tmp_path / "run", tmp_path / "moved")
    moved = config_of(
        there / "zoo-copy",
        "--config.host_devices=8",
        "--config.mesh.task=-1",
        f"--config.data.cache_dir={tmp_path}/cache",
        data=there / "data-copy",
    )
    result = train.main(moved, str(tmp_path / "moved"))
    assert result["steps"] == 2
    for name, value in model_of(finished[0]).items():
        found = model_of(tmp_path / "moved")[name]
        np.testing.assert_allclose(found, value, rtol=1e-4, atol=1e-5, err_msg=name)
    for row, cells in finished[1]["results"].items():
        assert result["results"][row]["1"].keys() == cells["1"].keys()


@pytest.mark.slow
def test_a_finished_run_stays_finished_elsewhere(places, copy, monkeypatch):
    _, there = places
    folder, result = copy
    monkeypatch.setattr(final, "measure", lambda *a, **k: pytest.fail("measured anew"))
    moved = config_of(there / "zoo-copy", data=there / "data-copy")
    assert train.main(moved, str(folder))["results"] == result["results"]
    # Nor by other devices, another log or another cache.
    moved = config_of(
        there / "zoo-copy",
        "--config.mesh.task=-1",
        "--config.log.every_steps=7",
        "--config.data.cache_dir=/nowhere",
        data=there / "data-copy",
    )
    assert train.main(moved, str(folder))["results"] == result["results"]


@pytest.mark.slow
def test_other_images_measure_anew_and_others_teach_nobody(places, copy):
    here, there = places
    folder, result = copy
    kept = model_of(folder)
    other = config_of(here / "zoo", data=there / "data-other")
    again = train.main(other, str(folder))
    assert again["results"].keys() == result["results"].keys()
    assert again["results"] != result["results"], "of the other images"
    for name, value in model_of(folder).items():
        np.testing.assert_array_equal(value, kept[name])
    with pytest.raises(InputError, match="content of the zoo has changed since"):
        train.main(config_of(there / "zoo-other", data=here / "data"), str(folder))


@pytest.mark.slow
def test_a_table_is_of_one_content(places, copy, monkeypatch):
    """Cells that were measured on other images are measured anew."""
    here, there = places
    folder, _ = copy
    shutil.copytree(here / "data", folder.parent / "data")
    more = ["--config.eval.episodes=3"]
    config = config_of(here / "zoo", *more, data=folder.parent / "data")
    first = train.main(config, str(folder))["results"]
    (folder / "result.json").unlink()  # Was killed before its end.
    assert train.main(config, str(folder))["results"] == first
    (folder / "result.json").unlink()
    shutil.rmtree(folder.parent / "data")
    shutil.copytree(there / "data-other", folder.parent / "data")
    assert train.main(config, str(folder))["results"] != first


def test_a_zoo_that_is_edited_in_place_is_refused(places, tmp_path, monkeypatch):
    def stopped(*_):
        raise stopping.Stopped

    monkeypatch.setattr(train.methods, "prepare", stopped)
    here, _ = places
    shutil.copytree(here / "zoo", tmp_path / "zoo")
    folder, config = tmp_path / "run", config_of(tmp_path / "zoo", data=here / "data")
    for _ in range(2):  # Begun, and taken up again.
        assert train.main(config, str(folder)) == {"stopped_at": 0}
        (folder / "metrics.jsonl").write_text("")  # It has left something.
    save_zoo(zoo_of(1), tmp_path / "zoo")
    with pytest.raises(InputError) as error:
        train.main(config, str(folder))
    assert "content of the zoo has changed" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_data_that_selects_is_known_by_its_content(places, tmp_path):
    here, there = places
    select = ["--config.eval.select=val", "--config.eval.val_episodes=2"]
    first = config_of(here / "zoo", *select, data=here / "data")
    train.main(first, str(tmp_path / "run"))
    moved = config_of(here / "zoo", *select, data=there / "data-copy")
    train.main(moved, str(tmp_path / "run"))
    other = config_of(here / "zoo", *select, data=there / "data-other")
    with pytest.raises(InputError, match=r"content of the data has changed.*val: "):
        train.main(other, str(tmp_path / "run"))


@pytest.mark.slow
def test_a_benchmark_without_its_folder_is_measured_later(places, tmp_path):
    here, _ = places
    named = ["--config.data.name=image_folder", "--config.data.image_size=16"]
    unmeasured = train.main(config_of(here / "zoo", *named), str(tmp_path / "run"))
    assert unmeasured["results"] == {}
    kept = model_of(tmp_path / "run")
    later = config_of(here / "zoo", *named, data=here / "data")
    assert train.main(later, str(tmp_path / "run"))["results"]
    for name, value in model_of(tmp_path / "run").items():
        np.testing.assert_array_equal(value, kept[name])


@pytest.mark.slow
def test_teachers_whose_ids_were_counted_stay_so(places, copy, monkeypatch):
    """Released teachers take their ids from the data's folder, where there is one."""
    here, _ = places
    folder, _ = copy
    load = inputs.load_zoo

    def by_data(options, data):
        found = load(options, data)
        if not data.path:
            return found
        group = found.groups[0]
        turned = group.teachers._replace(class_ids=group.teachers.class_ids[:, ::-1])
        group = ZooGroup(group.network, turned, group.accuracy)
        return Zoo((group,), found.class_names)

    monkeypatch.setattr(inputs, "load_zoo", by_data)
    config = config_of(here / "zoo", "--config.eval.queries=1", data=here / "data")
    assert train.main(config, str(folder))["results"]
    save_zoo(zoo_of(1), folder / "zoo-other")
    with pytest.raises(InputError, match="content of the zoo has changed"):
        train.main(config_of(folder / "zoo-other", data=here / "data"), str(folder))


def test_only_scores_that_select_are_part_of_a_run(places):
    here, _ = places
    for select, free in (("last", True), ("val", False)):
        key = f"--config.eval.select={select}"
        settings = checks.validate(config_of(here / "zoo", key, data=here / "data"))
        assert ("eval.val_episodes" in identity.may_change(settings)) == free


@pytest.mark.slow
def test_scores_that_select_nothing_may_change(copy, places):
    here, _ = places
    folder, result = copy
    more = config_of(here / "zoo", "--config.eval.val_episodes=3", data=here / "data")
    kept = model_of(folder)
    again = train.main(more, str(folder))
    assert again["results"] == result["results"]
    for name, value in model_of(folder).items():
        np.testing.assert_array_equal(value, kept[name])


@pytest.mark.slow
def test_earlier_images_may_stand_elsewhere(places, finished, tmp_path):
    here, _ = places
    shutil.copytree(finished[0], tmp_path / "pool")
    extra = ["--config.eval.episodes=3"]

    def run(pool, *more):
        key = f"--config.recover.reuse={pool}"
        return train.main(config_of(here / "zoo", key, *more), str(tmp_path / "second"))

    first = run(tmp_path / "pool")
    shutil.move(tmp_path / "pool", tmp_path / "moved")
    assert run(tmp_path / "moved")["steps"] == first["steps"]
    file = sorted((tmp_path / "moved" / "recovered").glob("[a-z]*.npz"))[0]
    with np.load(file) as stored:
        arrays = dict(stored)
    arrays["images"] = 255 - arrays["images"]
    np.savez(file, **arrays)
    with pytest.raises(InputError, match=r"content of the images of recover\.reuse"):
        run(tmp_path / "moved", *extra)


@pytest.mark.slow
def test_rounds_that_moved_together_find_each_other(places, finished, tmp_path):
    here, _ = places
    (tmp_path / "runs").mkdir()
    shutil.copytree(finished[0], tmp_path / "runs" / "first")
    against = f"--config.recover.against={tmp_path}/runs/first"
    train.main(config_of(here / "zoo", against), str(tmp_path / "runs" / "second"))
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    second = str(tmp_path / "moved" / "second")
    assert reuse.lineage(second) == [str(tmp_path / "moved" / "first"), second]
    against = f"--config.recover.against={tmp_path}/moved/first"
    result = train.main(
        config_of(here / "zoo", against, "--config.eval.val_episodes=1"), second
    )
    assert result["steps"] == 2


@pytest.mark.slow
def test_teachers_in_training_move_to_other_devices(tmp_path, monkeypatch):
    pictures(tmp_path / "data", ("train",), classes=4, count=5)
    shutil.copytree(tmp_path / "data", tmp_path / "copy")

    def run(workdir, data, *extra):
        argv = [
            "run.py",
            "--config=experiments/configs/pretrain_cifar_fs_conv4.py",
            "--config.data.name=image_folder",
            "--config.data.image_size=16",
            f"--config.data.path={data}",
            "--config.pretrain.num_teachers=2",
            "--config.pretrain.way=3",
            "--config.pretrain.epochs=2",
            "--config.pretrain.batch_size=4",
            "--config.pretrain.model.kwargs.width=4",
            *extra,
        ]
        return pretrain_zoo.main(command_line.parse(argv).config, str(workdir))

    straight = run(tmp_path / "a", tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(stopping.StopRequest, "reached", lambda self, step: step == 1)
        assert run(tmp_path / "b", tmp_path / "data") == {"stopped_at": 1}
    devices = ["--config.host_devices=8", "--config.mesh.task=-1"]
    moved = run(tmp_path / "b", tmp_path / "copy", *devices)
    assert moved["held_out_accuracy"] == pytest.approx(straight["held_out_accuracy"])
    first = tmp_path / "copy" / "train" / "class0" / "0.bmp"
    first.write_bytes(first.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match="content of the data has changed"):
        run(tmp_path / "b", tmp_path / "copy")


def test_a_run_that_moves_back_and_forth_keeps_all_of_its_names(tmp_path):
    """What it measured in the first place is found from each of them."""
    names = []
    for seconds in (10, 20, 30, 20, 10):
        config = {"seed": 0, "log": {"every_secs": seconds}}
        options = {"may_change": ("log",), "elsewhere": ("log",)}
        with workdir_lib.claim_workdir(tmp_path, config, **options):
            (tmp_path / "metrics.jsonl").touch()  # It has been used.
        names.append(same_run.hashes(tmp_path, config))
    first = names[0][0]
    assert len(set(names[0])) == 1 and all(first in each for each in names)
    assert {*names[3]} == {*names[2]} | {names[1][0]}
