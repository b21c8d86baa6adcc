"""Data: the procedural set, image folders, their cache, and every message."""

import collections
import os
import pathlib
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from experiments import data
from experiments.data import folder, procedural, shapes
from experiments.inputs.conversion import class_names_of

ROOT = pathlib.Path(__file__).resolve().parents[1]
CIFAR_FS_TAR = ROOT.parent / "shared" / "data" / "cifar_fs.tar"


def nearest_centroid(images, counts, *, way, shots, episodes=200, queries=10):
    """Mean accuracy of a nearest-centroid learner on raw pixels."""
    rng = np.random.default_rng(0)
    features = images.reshape(*images.shape[:2], -1) / 255.0
    correct = []
    for _ in range(episodes):
        classes = rng.choice(len(counts), way, replace=False)
        rows = [features[c][rng.permutation(counts[c])] for c in classes]
        centroids = np.stack([row[:shots].mean(0) for row in rows])
        x = np.stack([row[shots : shots + queries] for row in rows])  # [W, Q, hwc]
        distances = np.square(x[:, :, None] - centroids).sum(-1)
        correct.append(np.mean(distances.argmin(-1) == np.arange(way)[:, None]))
    return np.mean(correct)


# ---------------------------------------------------------------- procedural


def test_procedural_is_deterministic_and_extends():
    first = procedural.make_split("val", images_per_class=12, image_size=16)
    again = procedural.make_split("val", images_per_class=12, image_size=16)
    longer = procedural.make_split("val", images_per_class=15, image_size=16)
    other = procedural.make_split("val", images_per_class=12, image_size=16, seed=1)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.images, longer.images[:, :12])
    assert first.class_names == other.class_names
    assert not np.array_equal(first.images, other.images)


def test_procedural_shapes_and_defaults():
    split = data.load_split("procedural", "test")
    assert split.images.shape == (8, 120, 32, 32, 3)
    assert split.images.dtype == np.uint8 and split.counts.dtype == np.int32
    assert split.counts.tolist() == [120] * 8
    assert list(split.class_names) == sorted(split.class_names)
    small = data.load_split("procedural", "test", image_size=12)
    assert small.images.shape == (8, 120, 12, 12, 3)


def test_procedural_classes_and_outlines_are_disjoint_across_splits():
    names = {s: procedural.class_names(s) for s in ("train", "val", "test")}
    assert [len(names[s]) for s in ("train", "val", "test")] == [36, 8, 8]
    assert len({name for split in names.values() for name in split}) == 52
    outlines = {
        s: {o for o in shapes.SHAPES if any(n.startswith(o + "_") for n in names[s])}
        for s in names
    }
    assert not outlines["train"] & outlines["val"]
    assert not outlines["train"] & outlines["test"]
    assert not outlines["val"] & outlines["test"]


def test_procedural_pixels_tell_little():
    split = procedural.make_split("test", images_per_class=40)
    accuracy = nearest_centroid(split.images, split.counts, way=5, shots=1)
    assert 0.22 < accuracy < 0.5  # chance is 0.2


def test_procedural_preset_has_the_statistics_of_the_images():
    split = procedural.make_split("train", images_per_class=10)
    pixels = split.images.reshape(-1, 3) / 255.0
    known = data.preset("procedural")
    np.testing.assert_allclose(pixels.mean(0), known.mean, atol=0.03)
    np.testing.assert_allclose(pixels.std(0), known.std, atol=0.03)


def test_signed_distance_of_a_square():
    x = np.array([0.0, 0.8, 2.0, 0.0, 1.8])
    y = np.array([0.0, 0.0, 0.0, -0.3, 1.8])
    distance = shapes.signed_distance(shapes.SHAPES["square"], x, y)
    expected = [-0.8, 0.0, 1.2, -0.5, np.sqrt(2.0)]
    np.testing.assert_allclose(distance, expected, atol=1e-6)


# ------------------------------------------------------------ presets, parts


def test_presets():
    assert data.preset("cifar_fs").image_size == 32
    assert data.preset("cub").mean == (0.485, 0.456, 0.406)
    with pytest.raises(ValueError, match="'cifar'; known: procedural, cifar_fs"):
        data.preset("cifar")


def test_require_names_the_class_and_the_need():
    split = procedural.make_split("val", images_per_class=6, image_size=4)
    data.require(split, way=8, images_per_class=6, what="val episodes")
    with pytest.raises(data.DataError, match=r"val episodes: 9 classes .* has 8"):
        data.require(split, way=9, images_per_class=6, what="val episodes")
    split.counts[2] = 3
    name = split.class_names[2]
    with pytest.raises(data.DataError, match=f"'{name}' has 3 images.* needs 4"):
        data.require(split, way=5, images_per_class=4, what="val episodes")


# ------------------------------------------------------------------- folders


@pytest.fixture(name="root")
def small_folder(tmp_path):
    """Two test classes of 3 and 2 images of many modes, and one val class."""
    root = tmp_path / "pictures"
    for name in ("test/cat", "test/ant", "val/bee"):
        (root / name).mkdir(parents=True)
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[..., 0] = 200
    Image.fromarray(colour).save(root / "test/cat/0.png")
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(root / "test/cat/1.PNG")
    alpha = np.concatenate([colour, np.full((8, 8, 1), 128, np.uint8)], -1)
    Image.fromarray(alpha).save(root / "test/cat/2.webp", lossless=True)
    palette = Image.fromarray(colour).quantize(2)
    palette.save(root / "test/ant/0.png", transparency=b"\x00\x80")
    Image.fromarray(np.full((20, 12, 3), 50, np.uint8)).save(root / "test/ant/1.bmp")
    Image.fromarray(colour).save(root / "val/bee/0.jpg")
    (root / "test/cat/._0.png").write_bytes(b"stub")
    (root / "test/cat/notes.txt").write_text("no image")
    return root


def load(root, split="test", size=8):
    return data.load_split(
        "image_folder",
        split,
        path=str(root),
        image_size=size,
        cache_dir=str(root.parent / "cache"),
    )


def fail_to_read(path, image_size):
    raise AssertionError(f"{path} was decoded again at {image_size}")


def test_folder_round_trip_of_modes_and_sizes(root, capsys):
    split = load(root)
    assert split.class_names == ("ant", "cat")
    assert split.counts.tolist() == [2, 3]
    assert split.images.shape == (2, 3, 8, 8, 3) and split.images.dtype == np.uint8
    assert np.all(split.images[1, 0] == [200, 0, 0])
    assert np.all(split.images[1, 1] == 90)  # grey
    assert np.all(split.images[1, 2] == [200, 0, 0])  # alpha is dropped
    np.testing.assert_allclose(split.images[0, 0], split.images[1, 0], atol=8)
    assert np.all(split.images[0, 1] == 50)  # resized
    assert not split.images[0, 2].any()  # padding
    assert capsys.readouterr().out == ""


def test_sixteen_bit_grey_keeps_its_upper_byte(tmp_path):
    values = np.full((4, 4), 0x5A10, np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.all(folder.read_image(tmp_path / "deep.png", 4) == 0x5A)


def test_second_load_reads_the_cache(root, monkeypatch):
    first = load(root)
    monkeypatch.setattr(folder, "read_image", fail_to_read)
    again = load(root)
    np.testing.assert_array_equal(first.images, again.images)
    assert first.class_names == again.class_names
    with pytest.raises(AssertionError, match="decoded again"):
        load(root, "val")
    with pytest.raises(AssertionError, match="decoded again"):
        load(root, size=4)


def test_changed_folder_is_prepared_anew(root):
    before = load(root)
    Image.fromarray(np.full((8, 8, 3), 77, np.uint8)).save(root / "test/cat/3.png")
    after = load(root)
    assert before.counts.tolist() == [2, 3] and after.counts.tolist() == [2, 4]
    assert np.all(after.images[1, 3] == 77)
    (root / "test/ant").rename(root / "test/elk")
    assert load(root).class_names == ("cat", "elk")
    path = root / "test/elk/1.bmp"
    stat = path.stat()
    Image.fromarray(np.full((20, 12, 3), 51, np.uint8)).save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert np.all(load(root).images[1, 1] == 51)


def test_interrupted_preparation_is_not_read(root, monkeypatch):
    read_image, calls = folder.read_image, []

    def interrupt(path, image_size):
        calls.append(path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return read_image(path, image_size)

    monkeypatch.setattr(folder, "read_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load(root)
    monkeypatch.setattr(folder, "read_image", read_image)
    assert load(root).counts.tolist() == [2, 3]


def test_long_preparation_reports_its_progress(root, monkeypatch, capsys):
    from experiments.data import builder

    monkeypatch.setattr(builder, "_SECONDS_PER_LINE", 0.0)
    load(root)
    assert "5/5 images" in capsys.readouterr().err


def test_large_classes_are_cut_into_records(root, monkeypatch):
    from experiments.data import builder

    whole = load(root, size=6)
    monkeypatch.setattr(builder, "_IMAGES_PER_RECORD", 2)
    monkeypatch.setattr(folder, "_FORMAT", "other key")
    np.testing.assert_array_equal(load(root, size=6).images, whole.images)


def test_default_cache_follows_the_environment(root, monkeypatch, tmp_path):
    monkeypatch.setenv("FREE_JAX_CACHE", str(tmp_path / "elsewhere"))
    data.load_split("image_folder", "val", path=str(root), image_size=8)
    assert list((tmp_path / "elsewhere").glob("image_folder-val-8-*"))


def test_tensorflow_is_never_imported(root):
    script = (
        "import sys; from experiments import data; "
        "assert 'tensorflow_datasets' not in sys.modules; "
        f"data.load_split('image_folder', 'val', path={str(root)!r}, image_size=8, "
        f"cache_dir={str(root.parent / 'fresh')!r}); "
        "assert 'tensorflow_datasets' in sys.modules; "
        "assert not {'tensorflow', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, cwd=ROOT)


# -------------------------------------------------------------------- errors


def expect(message, name="image_folder", split="test", **kwargs):
    with pytest.raises(data.DataError, match=message) as caught:
        data.load_split(name, split, **kwargs)
    assert "\n" not in str(caught.value)


def test_errors_of_arguments(tmp_path):
    expect("unknown data set 'cifar'", name="cifar")
    expect("unknown split 'valid'; known: train, val, test", split="valid")
    expect("image_size=0", image_size=0, path=str(tmp_path))
    expect("takes no path", name="procedural", path=str(tmp_path))
    expect("'image_folder' needs a path: the folder that holds {train")
    expect("nowhere: no such folder", path=str(tmp_path / "nowhere"))
    with pytest.raises(data.DataError, match="unknown split"):
        procedural.make_split("all")
    with pytest.raises(data.DataError, match="images_per_class=0"):
        procedural.make_split("test", images_per_class=0)


def test_errors_of_archives_and_files(tmp_path):
    for name, command in (("a.tar", "tar -xf"), ("a.zip", "unzip")):
        (tmp_path / name).touch()
        expect(f"is an archive; extract .*`{command} .*{name}`", path=tmp_path / name)
    (tmp_path / "a.bin").touch()
    expect("a.bin: is a file", path=tmp_path / "a.bin")


def test_errors_of_layout(root):
    expect("train: no such folder; found test, val in", split="train", path=root)
    (root / "train").mkdir()
    expect("train: no class folders", split="train", path=root)
    expect(f"{root} holds the splits: give that path", path=root.parent)
    for image in (root / "test").glob("*/*"):
        image.unlink()
    expect("class folder without images", path=root)


def test_strays_beside_classes_shift_no_class(root, tmp_path, capsys):
    """Names (of class ids) and images are listed once, by the same rule."""
    before = load(root)
    (root / "train").symlink_to(root / "test")
    for name in (".ipynb_checkpoints", "__MACOSX", ".cache", "aaa_empty", "zzz_text"):
        (root / "test" / name).mkdir()
    (root / "test/__MACOSX/0.png").write_bytes(b"")
    (root / "test/zzz_text/notes.txt").write_text("no image")
    (root / "test/readme.txt").write_text("no class")
    again = load(root)
    assert again.class_names == before.class_names
    np.testing.assert_array_equal(again.images, before.images)
    told = capsys.readouterr().err
    assert "'.cache', '.ipynb_checkpoints', '__MACOSX' and 5 more" in told
    assert class_names_of(root) == before.class_names
    assert "passed over" in capsys.readouterr().err


def test_names_alone_are_enough_for_class_ids(tmp_path):
    for name in ("cat", "ant"):
        (tmp_path / "train" / name).mkdir(parents=True)
    assert class_names_of(tmp_path) == ("ant", "cat")


@pytest.mark.parametrize("suffix", ["tif", "ppm", "gif"])
def test_all_usual_formats_are_read(root, suffix):
    """They were dropped without a word, so that a class's first images differed."""
    Image.new("RGB", (8, 8), (255, 0, 0)).save(root / f"test/cat/0.{suffix}")
    split = load(root)
    cat = split.class_names.index("cat")
    assert split.counts[cat] == 4
    reds = split.images[cat, :, 0, 0].tolist()
    assert [255, 0, 0] in reds


def test_a_dangling_link_and_a_name_in_no_encoding_are_refused(root, tmp_path):
    link = root / "test/cat/zz.png"
    link.symlink_to(tmp_path / "gone.png")
    expect("zz.png: is a link to nothing", path=root)
    link.unlink()
    os.mkdir(os.fsencode(root / "test") + b"/caf\xe9")
    expect("holds a name that is not valid UTF-8", path=root)


def test_errors_of_images_name_the_file(root, tmp_path):
    cache = tmp_path / "cache"
    path = root / "test/cat/0.png"
    Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    ).save(path)
    for content in (path.read_bytes()[:3000], b"not an image", b""):
        path.write_bytes(content)
        expect("test/cat/0.png: not a readable", path=root, cache_dir=cache)
    path.unlink()
    assert load(root).counts.tolist() == [2, 2]


def test_errors_of_the_cache(root, tmp_path):
    blocker = tmp_path / "blocker"
    blocker.touch()
    expect("cannot prepare the cache .*FREE_JAX_CACHE", path=root, cache_dir=blocker)
    load(root)
    (record,) = (root.parent / "cache").rglob("*.array_record*")
    record.write_bytes(record.read_bytes()[:100])
    with pytest.raises(data.DataError, match="damaged cache; delete the folder"):
        load(root)


# ----------------------------------------------------------------- real data


@pytest.mark.shared
@pytest.mark.skipif(not CIFAR_FS_TAR.exists(), reason="shared CIFAR-FS is missing")
def test_cifar_fs_folder(tmp_path):
    with tarfile.open(CIFAR_FS_TAR) as archive:
        taken = collections.Counter()
        for member in archive:
            parts = pathlib.PurePosixPath(member.name).parts
            if "train" in parts:
                break  # the test classes come first
            if len(parts) == 4 and taken[parts[2]] < 60:
                taken[parts[2]] += 1
                archive.extract(member, tmp_path, filter="data")
    split = data.load_split(
        "cifar_fs", "test", path=tmp_path / "cifar_fs", cache_dir=tmp_path / "cache"
    )
    assert split.images.shape == (20, 60, 32, 32, 3)
    assert split.counts.tolist() == [60] * 20
    assert split.class_names[:3] == ("baby", "bed", "bicycle")
    files = sorted((tmp_path / "cifar_fs/test/bed").iterdir())
    with Image.open(files[7]) as image:
        np.testing.assert_array_equal(split.images[1, 7], np.asarray(image))
    # The 1-shot accuracy of raw pixels, above chance and far from a learner's.
    accuracy = nearest_centroid(split.images, split.counts, way=5, shots=1)
    assert 0.22 < accuracy < 0.35
