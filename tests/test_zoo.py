"""Zoos in memory and on disk."""

import dataclasses
import gc
import json
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from free_jax import rows
from free_jax.errors import InputError
from free_jax.types import Teachers
from free_jax.zoo import (
    Zoo,
    ZooGroup,
    checkpoint,
    disjoint,
    load_zoo,
    merge,
    save_zoo,
    select,
    stack,
    subset,
    take,
)
from free_jax.zoo.network import make_network

ARCH = make_network("conv4", num_classes=3, image_shape=(16, 16, 3), width=2)
NAMES = tuple(f"class_{i}" for i in range(7))


def group(count=4, *, seed=0, arch=ARCH, num_classes=7, domain="toy"):
    rng = np.random.default_rng(seed)
    variables = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=(count, *x.shape)), jnp.float32),
        jax.eval_shape(arch.init, jax.random.key(0)),
    )
    ids = [rng.permutation(num_classes)[: arch.num_classes] for _ in range(count)]
    accuracy = rng.uniform(size=count).astype(np.float32)
    accuracy[-1] = np.nan
    teachers = Teachers(variables, jnp.asarray(np.stack(ids), jnp.int32))
    return ZooGroup(arch, teachers, accuracy, domain)


@pytest.fixture(scope="module")
def mixed():
    other = make_network(
        "conv4", num_classes=3, image_shape=(32, 16, 3), width=3, global_pool=True
    )
    return Zoo((group(4), group(2, seed=1, arch=other, domain="other")), NAMES)


def assert_same(a: Zoo, b: Zoo):
    assert a.class_names == b.class_names
    assert a.networks == b.networks
    assert [g.domain for g in a.groups] == [g.domain for g in b.groups]
    for x, y in zip(a.groups, b.groups, strict=True):
        np.testing.assert_array_equal(x.accuracy, y.accuracy)
    assert jax.tree.structure(a.teachers) == jax.tree.structure(b.teachers)
    for x, y in zip(
        jax.tree.leaves(a.teachers), jax.tree.leaves(b.teachers), strict=True
    ):
        assert x.dtype == y.dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_take_and_stack_are_inverse_and_take_may_be_traced(mixed):
    teachers = mixed.teachers[0]
    again = stack([take(teachers, i) for i in range(4)])
    jax.tree.map(np.testing.assert_array_equal, again, teachers)
    index = jnp.asarray([2, 0])
    short = take(teachers, index)
    assert short.class_ids.shape == (2, 3)
    by_vmap = jax.jit(jax.vmap(take, in_axes=(None, 0)))(teachers, index)
    jax.tree.map(np.testing.assert_array_equal, by_vmap, short)
    jax.tree.map(np.testing.assert_array_equal, take(short, 1), take(teachers, 0))


def test_take_and_stack_refuse_what_does_not_fit(mixed):
    with pytest.raises(InputError, match="no teacher 4 in a stack of 4"):
        take(mixed.teachers[0], 4)
    with pytest.raises(InputError, match="differ in structure or shapes"):
        stack([take(teachers, 0) for teachers in mixed.teachers])
    with pytest.raises(InputError, match="no teachers"):
        stack([])


def test_select_counts_over_all_groups(mixed):
    sizes = [group.num_teachers for group in mixed.groups]
    last = sum(sizes) - 1
    chosen = select(mixed, np.asarray([1, last]))
    assert [group.num_teachers for group in chosen.groups] == [1, 1]
    for before, after, row in (
        (mixed.groups[0], chosen.groups[0], 1),
        (mixed.groups[-1], chosen.groups[-1], sizes[-1] - 1),
    ):
        for a, b in zip(
            jax.tree.leaves(before.teachers),
            jax.tree.leaves(after.teachers),
            strict=True,
        ):
            np.testing.assert_array_equal(a[row], b[0])
    # A group left empty is dropped; no teacher at all is refused.
    assert len(select(mixed, np.asarray([0])).groups) == 1
    with pytest.raises(InputError, match="no teacher"):
        select(mixed, np.asarray([], int))


def test_properties_and_subset(mixed):
    assert (mixed.num_teachers, mixed.num_classes, mixed.way) == (6, 7, 3)
    small = subset(mixed, 3)
    assert [g.num_teachers for g in small.groups] == [3, 2]
    expected = take(mixed.teachers[0], jnp.arange(3))
    jax.tree.map(np.testing.assert_array_equal, small.teachers[0], expected)
    with pytest.raises(InputError, match="num_teachers=0"):
        subset(mixed, 0)


def test_merge_shares_equal_names_and_joins_equal_groups():
    first, second = Zoo((group(4),), NAMES), Zoo((group(3, seed=1),), NAMES)
    both = merge([first, second])
    assert both.class_names == NAMES
    assert [g.num_teachers for g in both.groups] == [7]
    np.testing.assert_array_equal(
        both.teachers[0].class_ids[4:], second.teachers[0].class_ids
    )
    assert np.isnan(both.groups[0].accuracy[[3, 6]]).all()


def test_merge_maps_ids_by_name():
    other_names = ("zebra", "class_1", "yak", "class_0", "wolf", "vole", "urchin")
    first = Zoo((group(4),), NAMES)
    second = Zoo((group(3, seed=1, domain=""),), other_names)
    both = merge([first, second])
    assert both.class_names[:7] == NAMES and len(both.class_names) == 12
    assert [g.domain for g in both.groups] == ["toy", ""]
    for zoo, merged in zip((first, second), both.groups, strict=True):
        before = np.asarray(zoo.class_names)[np.asarray(zoo.teachers[0].class_ids)]
        after = np.asarray(both.class_names)[np.asarray(merged.teachers.class_ids)]
        np.testing.assert_array_equal(before, after)


def test_equal_names_of_two_domains_are_two_classes(tmp_path):
    toys = Zoo((group(4),), NAMES)
    farm = Zoo((group(3, seed=1, domain="farm"),), NAMES)
    unknown = Zoo((group(2, seed=2, domain=""),), NAMES)
    both = merge([toys, farm])
    toy_names = tuple(f"toy/{name}" for name in NAMES)
    farm_names = tuple(f"farm/{name}" for name in NAMES)
    assert both.class_names == toy_names + farm_names
    for zoo, merged, shift in zip((toys, farm), both.groups, (0, 7), strict=True):
        before, after = zoo.teachers[0].class_ids, merged.teachers.class_ids
        np.testing.assert_array_equal(np.asarray(before) + shift, after)
    assert not set(both.class_ids[:12]) & set(both.class_ids[12:])
    # Merged anew, from a file too; who states no domain is neither's.
    save_zoo(both, tmp_path)
    again = merge([load_zoo(tmp_path), farm, unknown])
    assert again.class_names == toy_names + farm_names + NAMES
    assert [g.num_teachers for g in again.groups] == [4, 6, 2]
    ids = np.asarray(again.groups[1].teachers.class_ids)
    np.testing.assert_array_equal(ids[:3], ids[3:])


def test_a_class_that_two_domains_share_in_one_zoo_is_parted():
    shared = Zoo((group(2), group(2, domain="farm")), NAMES)
    ids = [
        set(np.asarray(g.teachers.class_ids).ravel()) for g in merge([shared]).groups
    ]
    assert not ids[0] & ids[1]


def test_merge_of_nothing_is_refused():
    with pytest.raises(InputError, match="at least one group"):
        merge([])


@pytest.fixture(scope="module")
def ragged():
    """Two teachers of two classes, three of four, one of three."""
    shape = (16, 16, 3)
    zoos = []
    for count, way, seed in ((2, 2, 0), (3, 4, 1), (1, 3, 2)):
        arch = make_network("conv4", num_classes=way, image_shape=shape, width=2)
        zoos.append(Zoo((group(count, seed=seed, arch=arch),), NAMES))
    return merge(zoos)


def test_groups_may_differ_in_their_numbers_of_classes(ragged, tmp_path):
    assert [g.num_teachers for g in ragged.groups] == [2, 3, 1]
    assert ragged.columns.tolist() == [0, 2, 4, 8, 12, 16, 19]
    assert ragged.columns.dtype == ragged.class_ids.dtype == np.int32
    wanted = [ids for t in ragged.teachers for row in t.class_ids for ids in row]
    np.testing.assert_array_equal(ragged.class_ids, wanted)
    save_zoo(ragged, tmp_path)
    assert_same(load_zoo(tmp_path), ragged)
    with pytest.raises(InputError, match=r"different numbers of classes.*conv4: 4"):
        _ = ragged.way


def test_every_teacher_is_located_and_selected_with_its_columns(ragged):
    places = [ragged.locate(i) for i in range(6)]
    assert places == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0)]
    for outside in (-1, 6):
        with pytest.raises(InputError, match=f"no teacher {outside} in 6"):
            ragged.locate(outside)
    for chosen in ([0, 3, 5], [2, 4], [5]):
        found = select(ragged, np.asarray(chosen))
        rows = [
            ragged.class_ids[ragged.columns[t] : ragged.columns[t + 1]] for t in chosen
        ]
        np.testing.assert_array_equal(found.class_ids, np.concatenate(rows))
        assert np.diff(found.columns).tolist() == [len(row) for row in rows]
    assert subset(ragged, 1).columns.tolist() == [0, 2, 6, 9]


def test_disjoint_classes_of_unequal_teachers(ragged):
    known = [
        set(ragged.class_ids[ragged.columns[t] : ragged.columns[t + 1]].tolist())
        for t in range(6)
    ]
    pairs = [(a, b) for a in range(6) for b in range(a) if not known[a] & known[b]]
    chosen = disjoint(ragged, 2)
    ids = chosen.class_ids.tolist()
    assert len(set(ids)) == len(ids) and pairs
    widest = chosen.columns
    assert (set(ids[: widest[1]]), set(ids[widest[1] :])) in [
        (known[b], known[a]) for a, b in pairs
    ]


def test_load_after_save_is_bit_identical(mixed, tmp_path, monkeypatch):
    save_zoo(mixed, tmp_path / "zoo")
    assert_same(load_zoo(tmp_path / "zoo"), mixed)
    monkeypatch.chdir(tmp_path)
    assert_same(load_zoo("zoo"), mixed)


def test_weights_in_files_are_read_when_they_are_used(mixed, tmp_path):
    save_zoo(mixed, tmp_path, in_files=True)
    found = load_zoo(tmp_path)
    leaves = [g.teachers.variables for g in found.groups]
    assert all(map(rows.in_files, jax.tree.leaves(leaves)))
    for mine, theirs in zip(found.groups, mixed.groups, strict=True):
        assert mine.network == theirs.network and mine.sources == theirs.sources
        for index in (1, np.asarray([1, 0])):
            toy.assert_equal(take(mine.teachers, index), take(theirs.teachers, index))
    some = select(found, np.asarray([0, 2, 4]))  # Nothing is read for that.
    assert all(rows.in_files(x) for x in jax.tree.leaves(some.teachers[0].variables))
    save_zoo(some, tmp_path / "some", in_files=False)
    assert_same(load_zoo(tmp_path / "some"), select(mixed, np.asarray([0, 2, 4])))
    file = max(tmp_path.glob("arrays_*/*.npy"), key=lambda file: file.stat().st_size)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="missing or damaged"):
        load_zoo(tmp_path)


def test_saving_again_replaces_and_leaves_no_rest(mixed, tmp_path):
    save_zoo(mixed, tmp_path)
    small = subset(mixed, 1)
    save_zoo(small, tmp_path)
    assert_same(load_zoo(tmp_path), small)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["arrays_1", "zoo.json"]


def test_an_interrupted_save_leaves_the_former_zoo(mixed, tmp_path, monkeypatch):
    save_zoo(mixed, tmp_path)
    (tmp_path / "arrays_1.orbax-checkpoint-tmp").mkdir()
    with monkeypatch.context() as patch:
        broken = types.SimpleNamespace(dumps=lambda *_, **__: 1 / 0)
        patch.setattr(checkpoint, "json", broken)
        with pytest.raises(ZeroDivisionError):
            save_zoo(subset(mixed, 1), tmp_path)
    assert_same(load_zoo(tmp_path), mixed)
    save_zoo(subset(mixed, 1), tmp_path)
    assert_same(load_zoo(tmp_path), subset(mixed, 1))
    assert len(list(tmp_path.iterdir())) == 2


def test_loading_needs_no_torch(mixed, tmp_path):
    save_zoo(mixed, tmp_path)
    code = (
        "import sys, free_jax.zoo, free_jax.interop\n"
        "heavy = {'torch', 'orbax', 'safetensors', 'tensorflow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.modules['torch'] = None\n"
        f"zoo = free_jax.zoo.load_zoo({str(tmp_path)!r})\n"
        "assert zoo.num_teachers == 6\n"
    )
    root = pathlib.Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def edit_json(folder, change):
    metadata = json.loads((folder / "zoo.json").read_text())
    change(metadata)
    (folder / "zoo.json").write_text(json.dumps(metadata))


@pytest.fixture
def discard_handles():
    """Collects what Orbax leaves of a failed restore; else it warns in a later test."""
    yield
    gc.collect()


quiet = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@quiet
@pytest.mark.usefixtures("discard_handles")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version=99), "convert the teachers again"),
        (lambda m: m.pop("groups"), "zoo.json is damaged"),
        (lambda m: m["groups"][0]["architecture"].update(name="vgg"), "vgg"),
        (lambda m: m["groups"][0]["architecture"].update(depht=3), "depht"),
        (lambda m: m["groups"][0]["architecture"].update(width=5), "damaged"),
        (lambda m: m["groups"][0].update(num_teachers=3), "damaged"),
        (lambda m: m.update(arrays="arrays_7"), "arrays_7"),
        (lambda m: m.update(class_names=["a"]), "out of range for 1 class names"),
        (lambda m: m.update(class_names=["a"] * 7), "appear twice"),
    ],
)
def test_damaged_metadata_is_refused(mixed, tmp_path, change, message):
    save_zoo(mixed, tmp_path)
    edit_json(tmp_path, change)
    with pytest.raises(InputError, match=message):
        load_zoo(tmp_path)


@quiet
@pytest.mark.usefixtures("discard_handles")
def test_missing_and_damaged_files_are_refused(mixed, tmp_path):
    with pytest.raises(InputError, match="not a converted zoo"):
        load_zoo(tmp_path / "nowhere")
    save_zoo(mixed, tmp_path)
    (tmp_path / "zoo.json").write_text("{")
    with pytest.raises(InputError, match=r"zoo\.json is damaged"):
        load_zoo(tmp_path)
    save_zoo(mixed, tmp_path)
    for file in tmp_path.glob("arrays_*/**/*"):
        if file.is_file() and file.stat().st_size > 100:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match="missing or damaged"):
        load_zoo(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="it is a file"):
        save_zoo(mixed, tmp_path / "file")


def with_teachers(change):
    base = group(4)
    return dataclasses.replace(base, teachers=change(base.teachers))


def set_leaf(teachers, value):
    variables = jax.tree.map(lambda x: x, teachers.variables)
    variables["params"]["conv2"]["bias"] = value(variables["params"]["conv2"]["bias"])
    return teachers._replace(variables=variables)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Zoo((), NAMES), "at least one group"),
        (lambda: Zoo((group(),), NAMES[:4]), "out of range for 4 class names"),
        (lambda: Zoo((group(),), NAMES + NAMES[:1]), "appear twice: ..class_0"),
        (
            lambda: with_teachers(lambda t: t._replace(class_ids=t.class_ids * 0)),
            "teacher 0 lists a class twice",
        ),
        (
            lambda: with_teachers(lambda t: t._replace(class_ids=t.class_ids[:, :2])),
            "expected .teachers, 3.",
        ),
        (
            lambda: with_teachers(lambda t: set_leaf(t, lambda x: x[:3])),
            "params/conv2/bias has shape .3, 2., expected .4, 2.",
        ),
        (
            lambda: with_teachers(
                lambda t: set_leaf(t, lambda x: x.at[2, 1].set(jnp.nan))
            ),
            "teacher 2 has values in params/conv2/bias that are not finite",
        ),
        (
            lambda: with_teachers(
                lambda t: t._replace(variables={"params": t.variables["params"]})
            ),
            "do not fit the architecture at .'batch_stats",
        ),
        (
            lambda: dataclasses.replace(group(), accuracy=np.zeros(2, np.float32)),
            "accuracies for 4 teachers",
        ),
    ],
)
def test_inconsistent_zoos_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_a_zoo_is_shown_in_a_line_without_its_weights():
    shown = repr(Zoo((group(4), group(2, seed=1, domain="other")), NAMES))
    size = "x".join(map(str, group(4).network.image_shape))
    assert shown.startswith(f"Zoo({len(NAMES)} classes: 4 ") and shown.count(size) == 2
    assert len(shown) < 100
