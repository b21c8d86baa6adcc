"""Teachers of different classes, sizes, colours and normalisations in one zoo."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from free_jax import panel, zoo
from free_jax.errors import InputError
from free_jax.images import fit_to
from free_jax.inversion import Recipe, dead_leaves, recovery_jobs
from free_jax.panel.recovery import common_shape
from free_jax.zoo.classes import Labels, key_of, unify
from free_jax.zoo.network import make_network


def network(num_classes=3, side=16, channels=3, **kwargs):
    return make_network(
        "conv4",
        num_classes=num_classes,
        image_shape=(side, side, channels),
        width=4,
        mean=(0.4, 0.5, 0.6)[:channels],
        std=(0.2, 0.25, 0.3)[:channels],
        **kwargs,
    )


def teacher(source, made, names, seed=0):
    variables = jax.tree.map(np.asarray, jax.jit(made.init)(jax.random.key(seed)))
    return zoo.Teacher(source, made, variables, tuple(names))


@pytest.fixture(scope="module")
def unequal():
    return zoo.assemble(
        [
            teacher("small", network(2), ("bus", "oak tree")),
            teacher("grey", network(3, channels=1), ("Oak_Tree, oak", None, "cup"), 1),
            teacher("large", network(5, side=32), ["LABEL", "a", "b", "bus", "d"], 2),
            teacher("bgr", network(2, bgr=True), ("cup", "cap"), 3),
            teacher("small2", network(2), ("cup", "bus"), 4),
        ]
    )


def test_equal_networks_stack_and_classes_join_by_name(unequal):
    made, table = unequal
    assert [g.num_teachers for g in made.groups] == [2, 1, 1, 1]
    assert made.sources == ("small", "small2", "grey", "large", "bgr")
    names = [made.class_names[i] for i in made.class_ids]
    assert names[:4] == ["bus", "oak tree", "cup", "bus"]
    assert names[4:7] == ["oak tree", "grey#1", "cup"]
    assert names[10] == "bus"
    np.testing.assert_array_equal(made.columns, [0, 2, 4, 7, 12, 14])
    assert table.merged["oak tree"] == [
        ("small", "oak tree"),
        ("grey", "Oak_Tree, oak"),
    ]
    with pytest.raises(InputError, match="different numbers of classes"):
        _ = made.way


def test_saved_and_loaded_with_its_sources(unequal, tmp_path):
    made = unequal.zoo
    zoo.save_zoo(made, tmp_path)
    again = zoo.load_zoo(tmp_path)
    assert again.sources == made.sources
    assert again.networks == made.networks
    assert again.networks[3].bgr
    chosen = zoo.select(again, np.asarray([1, 4]))
    assert chosen.sources == ("small2", "bgr")
    both = zoo.merge([chosen, zoo.select(again, np.asarray([0]))])
    assert both.sources == ("small2", "small", "bgr")


def test_a_bgr_network_reads_the_channels_the_other_way_round(key):
    plain = network()
    turned = dataclasses.replace(plain, bgr=True)
    variables = jax.jit(plain.init)(key)
    images = jax.random.uniform(key, (2, 16, 16, 3))
    # Flipping the first kernel's input channels undoes the order.
    kernel = variables["params"]["conv0"]["kernel"][:, :, ::-1]
    params = {**variables["params"], "conv0": {"kernel": kernel}}
    if "bias" in variables["params"]["conv0"]:
        params["conv0"]["bias"] = variables["params"]["conv0"]["bias"]
    np.testing.assert_allclose(
        toy.apply(turned, {**variables, "params": params}, images),
        toy.apply(plain, variables, images),
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="channels, not three"):
        network(channels=1, bgr=True)


def test_grey_and_colours():
    from PIL import Image

    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    grey = fit_to(jnp.asarray(rgb[None]) / 255.0, (6, 5, 1))
    wanted = np.asarray(Image.fromarray(rgb).convert("L"), np.float32) / 255
    np.testing.assert_allclose(grey[0, ..., 0], wanted, atol=0.6 / 255)
    np.testing.assert_array_equal(
        fit_to(grey, (6, 5, 3)), np.repeat(np.asarray(grey), 3, axis=3)
    )
    with pytest.raises(ValueError, match="only grey and RGB"):
        fit_to(jnp.zeros((1, 4, 4, 2)), (4, 4, 3))
    drawn = dead_leaves.draw(jax.random.key(0), (16, 16, 3))
    np.testing.assert_allclose(
        dead_leaves.draw(jax.random.key(0), (16, 16, 1)),
        fit_to(drawn[None], (16, 16, 1))[0],
    )


def test_a_panel_of_unequal_teachers_describes_images_of_all(unequal, key):
    """Each answers in its own size and colours; logits stand side by side."""
    made = unequal.zoo
    recover = panel.RecoverOptions(images_per_class=0, dead_leaves=6)
    options = panel.PanelOptions(recover, trust=False)
    described = panel.describe_zoo(key, made, options).described
    assert described.images.shape == (6, 16, 16, 3)
    assert described.logits.shape == (6, 14)
    images = jnp.asarray(described.images) / 255.0
    columns = np.asarray(described.columns)
    for row, (number, within) in enumerate(map(made.locate, range(5))):
        group = made.groups[number]
        one = zoo.take(toy.host(group.teachers), within)
        views = fit_to(images, group.network.image_shape)
        wanted = toy.apply(group.network, one.variables, views)
        np.testing.assert_allclose(
            described.logits[:, columns[row] : columns[row + 1]],
            wanted,
            rtol=1e-4,
            atol=1e-4,
        )


def test_a_grey_teacher_is_inverted_in_grey_and_shown_in_colours(unequal, key):
    grey = zoo.select(unequal.zoo, np.asarray([2]))
    (job,) = recovery_jobs(
        key,
        grey,
        Recipe(init="dead_leaves", num_steps=1),
        images_per_class=2,
        image_shape=(20, 20, 3),
    )
    images = job.run()["images"]
    assert images.shape == (6, 20, 20, 3)
    np.testing.assert_array_equal(images[..., 0], images[..., 2])


def test_the_common_shape_is_that_of_most_teachers_in_colours(unequal):
    assert common_shape(unequal.zoo) == (16, 16, 3)
    some = zoo.select(unequal.zoo, np.asarray([2, 3]))
    assert common_shape(some) == (32, 32, 3)
    assert common_shape(some, 24) == (24, 24, 3)


def test_names_that_one_teacher_uses_twice_stay_apart():
    table = unify(
        [
            Labels("imagenet", ("crane, bird", "crane, machine", "maillot", "maillot")),
            Labels("birds", ("Crane", "wren")),
        ]
    )
    assert table.names == (
        "crane, bird",
        "crane, machine",
        "maillot (imagenet#2)",
        "maillot (imagenet#3)",
        "Crane",
        "wren",
    )
    assert not table.merged


def test_corrections_join_and_part():
    teachers = [Labels("a", ("ship", "crane")), Labels("b", ("boat", "crane"))]
    table = unify(teachers, {"vessel": ["ship", "boat"], "crane (bird)": ["b#crane"]})
    assert table.names == ("vessel", "crane", "crane (bird)")
    assert [row.tolist() for row in table.ids] == [[0, 1], [0, 2]]
    by_number = unify(teachers, {"crane (bird)": ["b#1"]})
    assert by_number.names[-1] == "crane (bird)"
    with pytest.raises(InputError, match="no teacher has an output 'boot'"):
        unify(teachers, {"vessel": ["boot"]})
    with pytest.raises(InputError, match="two outputs of a would both be"):
        unify(teachers, {"thing": ["ship", "crane"]})
    with pytest.raises(InputError, match="keep one"):
        unify(teachers, {"x": ["ship"], "y": ["Ship"]})


words = st.text(st.sampled_from("aB_- ,é\u212b\ufb01"), max_size=5)


@given(st.lists(st.lists(st.one_of(st.none(), words), min_size=2, max_size=4)))
def test_no_two_outputs_of_a_teacher_are_one_class(lists):
    teachers = [Labels(f"t{i}", tuple(names)) for i, names in enumerate(lists)]
    table = unify(teachers)
    assert len(set(table.names)) == len(table.names)
    for labels, row in zip(teachers, table.ids, strict=True):
        assert len(set(row.tolist())) == len(labels.names)
    for found in table.merged.values():
        assert len({key_of(name) for _, name in found}) == 1
    used = {i for row in table.ids for i in row.tolist()}
    assert used == set(range(len(table.names)))
