"""What a network says of itself, and what is refused because of it."""

import gc
import weakref

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import toy

from free_jax import inversion, panel
from free_jax.errors import InputError
from free_jax.inversion import Objective
from free_jax.remote import EndpointSpec, Hub, remote_zoo
from free_jax.remote.module import Endpoint
from free_jax.zoo import Zoo, ZooGroup, save_zoo
from free_jax.zoo.network import GIVES, make_network


class Plain(nn.Module):
    """A linear classifier: no batch norm."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, norm, features=False):
        x = images.reshape(images.shape[0], -1)
        return x if features else nn.Dense(self.num_classes, name="head")(x)


PLAIN = make_network("plain", num_classes=3, image_shape=toy.SHAPE, family=Plain)


class Service:
    """Answers the mean of an image, shifted by the teacher's number."""

    names = ("a", "b", "c")

    def ask(self, index, images):
        means = np.asarray(images).mean((-3, -2))  # [..., n, 3]
        return (means + np.asarray(index)[..., None, None]).astype(np.float32)


def test_a_family_makes_the_module_and_tells_whether_there_are_moments(key):
    assert PLAIN.gives == GIVES - {"moments"}
    normed = make_network(
        "tiny", num_classes=3, image_shape=toy.SHAPE, family=toy.TinyNet, width=5
    )
    assert normed.gives == GIVES and normed.module == toy.TinyNet(3, width=5)
    assert make_network("conv4", num_classes=2, image_shape=toy.SHAPE).gives == GIVES
    with pytest.raises(ValueError, match=r"'odds'.*choose among"):
        make_network("conv4", num_classes=2, image_shape=toy.SHAPE, gives={"odds"})
    images = jax.random.uniform(key, (2, *toy.SHAPE))
    variables = jax.jit(PLAIN.init)(key)
    logits, moments = PLAIN.apply_with_moments(variables, images)
    assert moments == variables["batch_stats"] == {}
    np.testing.assert_array_equal(logits, PLAIN.apply(variables, images))


@pytest.mark.parametrize("wrong", [2.5, "5", float("nan"), float("inf"), [5]])
def test_a_number_that_is_not_whole_is_not_rounded(wrong, monkeypatch):
    # Users have no checker of types, which would refuse them before the library does.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for fields in (
        {"num_classes": wrong, "image_shape": (32, 32, 3)},
        {"num_classes": 5, "image_shape": (wrong, 32, 3)},
    ):
        with pytest.raises(ValueError, match="is no whole number"):
            make_network("conv4", **fields)
    whole = make_network(
        "conv4", num_classes=np.int64(5), image_shape=np.asarray((32, 32, 3))
    )
    assert whole == make_network("conv4", num_classes=5, image_shape=(32, 32, 3))


def test_networks_are_equal_by_value_and_described_without_functions():
    again = make_network("plain", num_classes=3, image_shape=toy.SHAPE, family=Plain)
    assert again == PLAIN and hash(again) == hash(PLAIN)
    network = make_network("conv4", num_classes=4, image_shape=toy.SHAPE, width=2)
    described = network.as_dict()
    assert described["num_classes"] == 4
    assert not {"way", "family", "gives", "service"} & described.keys()
    assert make_network(**described) == network
    described["way"] = described.pop("num_classes")  # as files written before say
    assert make_network(**described) == network


def test_what_a_network_does_not_give_is_refused_when_a_method_is_built(tmp_path):
    with pytest.raises(
        InputError, match="objective asks for moments, which plain does not give; set"
    ):
        inversion.white_box(Objective(), PLAIN)
    inversion.white_box(Objective(moments=0.0), PLAIN)
    remote = make_network(
        "endpoint",
        num_classes=3,
        image_shape=toy.SHAPE,
        family=Endpoint,
        gives=(),
        service=Service(),
    )
    with pytest.raises(
        InputError, match="asks for gradients, which endpoint does not give; use zero-"
    ):
        inversion.white_box(Objective(moments=0.0), remote)
    with pytest.raises(InputError, match="features, which endpoint does not give"):
        panel.embedder((remote,), output="features")
    group = ZooGroup(PLAIN, toy.random_teachers(PLAIN, 2), np.full(2, np.nan))
    zoo = Zoo((group,), tuple("abcdefghi"))
    with pytest.raises(InputError, match="a zoo of plain cannot be saved"):
        save_zoo(zoo, tmp_path / "zoo")


def test_remote_teachers_may_differ_in_their_number_of_classes(key):
    class Wide(Service, Hub):
        """Teacher 1 has two classes, the others three."""

        def __init__(self):
            self.asked = ()

        def ask(self, index, images):
            said = super().ask(index, images)
            self.asked += (np.ravel(index).tolist(),)
            return said[..., :2] if 1 in np.ravel(index) else said

    service = Wide()
    specs = [EndpointSpec(n, w, toy.SHAPE) for n, w in (("a", 3), ("b", 2), ("c", 3))]
    names = [["x", "y", "z"], ["y", "v"], ["u", "x", "w"]]
    half = ((0.5,) * 3, (0.5,) * 3)
    zoo = remote_zoo(service, specs, names, [half] * 3, ["toy"] * 3)
    assert zoo.service is service and [n.gives for n in zoo.networks] == [set()] * 2
    assert zoo.columns.tolist() == [0, 3, 6, 8]
    # By the order of the endpoints: a run that has paid for answers is known by it.
    assert zoo.class_names == ("x", "y", "z", "v", "u", "w")
    known = [zoo.class_names[i] for i in zoo.class_ids]
    assert known == ["x", "y", "z", "u", "x", "w", "y", "v"]
    images = jax.random.uniform(key, (4, *toy.SHAPE))
    embed = panel.embedder(zoo.networks, output="logits", mirror=False)
    found = jax.jit(embed)(zoo.teachers, images)
    means = 2 * np.asarray(images).mean((1, 2)) - 1
    wanted = np.concatenate([means, means + 2, means[:, :2] + 1], 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    # Those of a group are asked in one call, so that all requests are in flight.
    assert service.asked == ([0, 2], [1])
    assert jnp.isfinite(found).all()


def test_a_hub_is_freed_with_its_zoo():
    class Plain(Service, Hub):
        def __init__(self):
            pass  # Without a thread, which would hold it until it is closed.

    hub = Plain()
    seen = weakref.ref(hub)
    half = ((0.5,) * 3, (0.5,) * 3)
    spec = EndpointSpec("a", 3, toy.SHAPE)
    zoo = remote_zoo(hub, [spec], [["x", "y", "z"]], [half], ["toy"])
    assert zoo.networks[0].shapes["params"].keys() == {"endpoint"}
    del zoo, hub
    gc.collect()
    assert seen() is None
