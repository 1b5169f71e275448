from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nni_plugins.data import Augmentation, ImageData, ImageSet, load_data
from nni_plugins.data.augmentation import crop_and_flip, cut_out_
from nni_plugins.data.image_set import class_names_of
from nni_plugins.tools.own_code import allow


def arrays(n_train: int = 12, n_test: int = 6, size: int = 8, channels: int | None = 3, classes: int = 3) -> dict:
    rng = np.random.default_rng(0)
    shape = (size, size) if channels is None else (size, size, channels)
    return {
        "x_train": rng.integers(0, 256, (n_train, *shape), dtype=np.uint8),
        "y_train": np.arange(n_train) % classes,
        "x_test": rng.integers(0, 256, (n_test, *shape), dtype=np.uint8),
        "y_test": np.arange(n_test) % classes,
    }


def small_set(**sizes: int) -> ImageData:
    return ImageData.from_arrays("small", arrays(**sizes))


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_crop_and_flip_by_hand() -> None:
    x = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8).expand(4, 1, 2, 2)
    top, left, mirrored = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1])
    out = crop_and_flip(x, top, left, mirrored, padding=1)
    assert out.dtype == torch.uint8
    assert out[:, 0].tolist() == [[[0, 0], [0, 1]], [[1, 2], [3, 4]], [[2, 1], [4, 3]], [[4, 3], [0, 0]]]


def test_cut_out_by_hand() -> None:
    out = cut_out_(torch.ones(3, 1, 4, 4), torch.tensor([2, 0, 3]), torch.tensor([2, 0, 1]), side=2)
    assert out[0, 0].tolist() == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    assert out[1, 0].tolist() == [[0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert out[2, 0].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]


@pytest.mark.parametrize("side", [1, 3, 4])
def test_augmentation_against_loops_over_images_and_pixels(side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(1, 256, (20, 3, 5, 7), generator=generator)
    padding = 2
    augmentation = Augmentation(crop_padding=padding, flip=True, cutout=side)
    draws = augmentation.draw(20, (5, 7), generator)
    out = augmentation.erase_(augmentation.move(x, draws), draws)

    expected = torch.zeros_like(x)
    for b, (top, left, mirrored, row, column) in enumerate(draws.tolist()):
        for i in range(5):
            for j in range(7):
                u, v = top + i - padding, left + (6 - j if mirrored else j) - padding
                cut = (
                    row - side // 2 <= i < row - side // 2 + side
                    and column - side // 2 <= j < column - side // 2 + side
                )
                if 0 <= u < 5 and 0 <= v < 7 and not cut:
                    expected[b, :, i, j] = x[b, :, u, v]
    assert torch.equal(out, expected)


def test_draws_reach_every_place_and_nothing_beyond() -> None:
    draws = Augmentation(crop_padding=2).draw(5000, (8, 6), torch.Generator().manual_seed(0))
    assert [sorted(column.unique().tolist()) for column in draws.unbind(1)] == [
        list(range(5)), list(range(5)), [0, 1], list(range(8)), list(range(6))
    ]  # fmt: skip
    assert draws[:, 2].float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_augmentation_switched_off_changes_nothing() -> None:
    x = torch.randint(0, 256, (10, 1, 4, 4))
    still = Augmentation(crop_padding=0, flip=False)
    draws = still.draw(10, (4, 4), torch.Generator())
    assert torch.equal(still.erase_(still.move(x, draws), draws), x)
    unmirrored = Augmentation(crop_padding=1, flip=False)
    draws = torch.tensor([[1, 1, 1, 0, 0]]).expand(10, -1)
    assert torch.equal(unmirrored.move(x, draws), x)


def test_usual_augmentation_of_a_set() -> None:
    digits: Any = load_data("digits")
    assert digits.augmentation() == Augmentation(crop_padding=2, flip=False, cutout=0)
    assert small_set(size=32).augmentation(cutout=16) == Augmentation(crop_padding=4, flip=True, cutout=16)
    with pytest.raises(ValueError, match="cutout 8 covers whole 8x8 images of small; choose a side below 8"):
        small_set(size=8).augmentation(cutout=8)


@pytest.mark.parametrize("name", ["crop_padding", "cutout"])
def test_negative_augmentation_is_refused(name: str) -> None:
    negative: Any = {name: -1}
    with pytest.raises(ValueError, match=f"{name} must be 0 .* but is -1"):
        Augmentation(**negative)


# --- the set ----------------------------------------------------------------------------------------------------------


def test_digits() -> None:
    digits = load_data("digits")
    assert isinstance(digits, ImageData)
    assert (digits.num_classes, digits.in_channels, digits.image_size) == (10, 1, 16)
    assert len(digits.x_train) + len(digits.x_test) == 1797
    assert len(digits.x_test) / 1797 == pytest.approx(0.2, abs=0.005)
    assert digits.x_train.dtype == torch.uint8
    assert (digits.x_train.min(), digits.x_train.max()) == (0, 255)
    again = load_data("digits")
    assert isinstance(again, ImageData)
    assert torch.equal(digits.x_test, again.x_test)
    share = digits.y_test.bincount() / (digits.y_test.bincount() + digits.y_train.bincount())
    assert torch.allclose(share, torch.full((10,), 0.2), atol=0.005)
    # Enlarging keeps the picture: means of 2x2 blocks are close to the 8x8 original (here of a test image).
    from sklearn.datasets import load_digits

    small = torch.nn.functional.avg_pool2d(digits.x_test[:1].float(), 2).flatten() * 16 / 255
    assert np.abs(load_digits().data - small.numpy()).mean(1).min() < 1.0


def test_statistics_are_those_of_the_training_pixels() -> None:
    data = small_set(n_train=30)
    x = data.x_train.double() / 255
    assert data.mean == pytest.approx(x.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert data.std == pytest.approx(x.std((0, 2, 3), correction=0).tolist(), abs=1e-12)


def test_a_constant_channel_can_be_normalised() -> None:
    given = arrays(channels=None)
    given["x_train"][:] = 51
    data = ImageData.from_arrays("flat", given)
    assert data.mean == pytest.approx((0.2,))
    assert data.std == pytest.approx((1 / 255,))


def test_grey_and_colour_arrays_come_out_channels_first() -> None:
    grey, colour = ImageData.from_arrays("grey", arrays(channels=None)), small_set()
    assert (grey.in_channels, colour.in_channels) == (1, 3)
    assert grey.x_train.shape == (12, 1, 8, 8)
    assert torch.equal(colour.x_train[4, 2], torch.from_numpy(arrays()["x_train"][4, :, :, 2]))
    assert (colour.num_classes, colour.image_size) == (3, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": None}, "has no x_test; it must hold x_train, y_train, x_test and y_test"),
        ({"x_train": np.zeros((12, 8, 8))}, "x_train must be uint8 images .* but is float64; scale to 0 to 255"),
        ({"x_train": np.zeros((12, 64), np.uint8)}, r"x_train must have the shape .* but has \(12, 64\)"),
        ({"x_train": np.zeros((12, 3, 8, 8), np.uint8)}, "images must be square, .* height 3 and width 8"),
        ({"x_train": np.zeros((12, 9, 9, 3), np.uint8)}, r"must be alike, but .* \(3, 9, 9\) and \(3, 8, 8\)"),
        ({"y_train": np.zeros(12)}, "y_train must be integer labels .* but is float64"),
        ({"y_train": np.zeros((12, 1), int)}, r"y_train must be integer labels .* of shape \(12, 1\)"),
        ({"y_train": np.arange(11) % 3}, "x_train has 12 images and y_train has 11 labels"),
        ({"x_test": np.zeros((0, 8, 8, 3), np.uint8), "y_test": np.zeros(0, int)}, "x_test has 0 images"),
        ({"y_train": np.arange(12) % 3 - 1}, r"y_train has labels outside the classes 0 to 2 .* \(such as -1\)"),
        ({"y_train": np.arange(12) % 3 * 2}, r"y_train has labels outside the classes 0 to 2 .* \(such as 4\)"),
        ({"y_test": np.arange(6)}, r"y_test has labels outside the classes 0 to 2 .* \(such as 3\)"),
        ({"y_train": np.zeros(12, int)}, "at least 2 classes, but there is 1"),
    ],
)
def test_wrong_arrays(tmp_path: Path, change: dict, message: str) -> None:
    given = {key: value for key, value in {**arrays(), **change}.items() if value is not None}
    np.savez(tmp_path / "set.npz", **given)
    with pytest.raises(ValueError, match=message) as error:
        load_data(f"npz:{tmp_path / 'set.npz'}")
    assert "set.npz" in str(error.value)


def test_wrong_tensors() -> None:
    x, y = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4) % 2
    with pytest.raises(ValueError, match=r"x_train must be a uint8 .* \(N, C, H, W\), but is torch.float32"):
        ImageData("mine", x.float(), y, x, y, num_classes=2)
    with pytest.raises(ValueError, match=r"y_test must be an int64 tensor of shape \(N,\), but is torch.int32"):
        ImageData("mine", x, y, x, y.int(), num_classes=2)


# --- load_data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["cifar11", "npz", "npz:", ":f", ""])
def test_unknown_name_lists_the_valid_ones(spec: str) -> None:
    with pytest.raises(ValueError, match=r"Unknown data set .*; expected one of digits, cifar10, .*npz:FILE.*function"):
        load_data(spec)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "mnist", "fashion_mnist"])
def test_a_set_that_is_not_downloaded(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"data set '{name}' is not in .*pass --download"):
        load_data(name, root=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_mnist_from_disk(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    given = arrays(size=28, channels=None)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        x, y = given[f"x_{part}"], given[f"y_{part}"].astype(np.uint8)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, *x.shape) + x.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, len(y)) + y.tobytes())
    data = load_data("mnist", root=tmp_path)
    assert isinstance(data, ImageData)
    assert (data.num_classes, data.in_channels, data.image_size, data.flip) == (3, 1, 28, False)
    assert np.array_equal(data.x_test[:, 0].numpy(), given["x_test"])
    assert data.y_train.tolist() == given["y_train"].tolist()


@pytest.mark.parametrize(("name", "class_name"), [("cifar10", "CIFAR10"), ("svhn", "SVHN")])
def test_layouts_of_torchvision(name: str, class_name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # CIFAR's and SVHN's files are known by checksum and cannot be imitated on disk: here are objects of their layout.
    import torchvision

    given = arrays()

    def make(root: str, *, download: bool, train: bool = True, split: str = "train") -> SimpleNamespace:
        part = "train" if train and split == "train" else "test"
        x, y = given[f"x_{part}"], given[f"y_{part}"]
        if name == "svhn":
            return SimpleNamespace(data=x.transpose(0, 3, 1, 2), labels=y)
        return SimpleNamespace(data=x, targets=y.tolist())

    monkeypatch.setattr(torchvision.datasets, class_name, make)
    data = load_data(name, root=tmp_path)
    assert isinstance(data, ImageData)
    assert torch.equal(data.x_train, small_set().x_train)
    assert torch.equal(data.x_test, small_set().x_test)
    assert data.y_test.tolist() == given["y_test"].tolist()
    assert data.flip is (name == "cifar10")


def test_a_failed_download_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torchvision

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fail)
    with pytest.raises(OSError, match=r"'cifar10' could not be downloaded .*no route to host.*check the network"):
        load_data("cifar10", root=tmp_path, download=True)


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", **arrays())
    data = load_data(f"npz:{tmp_path / 'set.npz'}")
    assert isinstance(data, ImageData)
    assert torch.equal(data.x_test, small_set().x_test)


def test_npz_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none.npz; npz:FILE needs"):
        load_data(f"npz:{tmp_path / 'none.npz'}")
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "pickled.npz", **{**arrays(), "y_test": np.array([{}], dtype=object)})
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04torn")
    for name in ("text.npz", "empty.npz", "one.npy", "pickled.npz", "torn.npz"):
        with pytest.raises(ValueError, match=f"{name} is not an archive of plain arrays .*numpy.savez"):
            load_data(f"npz:{tmp_path / name}")


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_images.py").write_text(
        "import numpy as np\n"
        "from nni_plugins.data import ImageData\n"
        "ARRAYS = dict(x_train=np.zeros((4, 8, 8), np.uint8), y_train=np.arange(4) % 2,\n"
        "              x_test=np.zeros((2, 8, 8), np.uint8), y_test=np.arange(2))\n"
        "def as_dict(): return ARRAYS\n"
        "def as_data(): return ImageData.from_arrays('mine', ARRAYS, flip=False)\n"
        "def wrong_labels(): return {**ARRAYS, 'y_test': np.array([0, 7])}\n"
        "def nothing(): pass\n"
        "def needs(size): return ARRAYS\n"
        "def fails(): return 1 / 0\n"
    )
    (tmp_path / "broken_images.py").write_text("import a_package_that_is_missing\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nni_plugins.tools.own_code._allowed", {})
    monkeypatch.setattr("sys.path", [p for p in __import__("sys").path if p])
    for name in ("my_images", "broken_images"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    return "my_images"


def from_the_command_line(spec: str) -> ImageSet:
    allow(spec, "data set")
    return load_data(spec)


def test_a_function_of_ones_own(user_module: str) -> None:
    from_dict, from_data = from_the_command_line("my_images:as_dict"), from_the_command_line("my_images:as_data")
    assert isinstance(from_dict, ImageData)
    assert isinstance(from_data, ImageData)
    assert (from_dict.name, from_dict.num_classes, from_dict.flip) == ("my_images:as_dict", 2, True)
    assert (from_data.name, from_data.flip) == ("mine", False)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_images:nothing", "returned NoneType; expected a function without arguments that returns an ImageData or"),
        ("my_images:missing", "my_images has no 'missing'; define it"),
        ("my_images:ARRAYS", "is a dict; expected a function without arguments"),
        ("my_images:needs", r"fails: TypeError: needs\(\) missing 1 required positional argument"),
        ("my_images:fails", r"fails: ZeroDivisionError: division by zero \(my_images.py, line \d+\); expected"),
        ("my_images:wrong_labels", r"my_images:wrong_labels: y_test has labels outside the classes .*such as 7"),
        ("no_images:load", "there is no module 'no_images'; start from the folder that has it"),
    ],
)
def test_a_function_that_does_not_fit(user_module: str, spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_the_command_line(spec)


def test_an_import_that_fails_inside_the_module_is_not_hidden(user_module: str) -> None:
    with pytest.raises(ValueError, match="broken_images needs 'a_package_that_is_missing', which is not installed"):
        from_the_command_line("broken_images:load")


def test_a_name_that_the_command_line_has_not_given_is_not_imported(user_module: str) -> None:
    with pytest.raises(ValueError, match="only the command line may name; pass --data my_images:needs"):
        load_data("my_images:needs")


def test_class_names(tmp_path: Path) -> None:
    assert class_names_of(load_data("digits")) == tuple("0123456789")
    given = arrays()
    classes = len(np.unique(given["y_train"]))
    names = [f"kind {number}" for number in range(classes)]
    np.savez(tmp_path / "set.npz", **given, class_names=names)
    np.savez(tmp_path / "plain.npz", **given)
    named, plain = load_data(f"npz:{tmp_path / 'set.npz'}"), load_data(f"npz:{tmp_path / 'plain.npz'}")
    assert class_names_of(named) == tuple(names) == class_names_of(named.to("cpu"))
    assert class_names_of(plain) == tuple(map(str, range(classes)))
    assert named.fingerprint() == plain.fingerprint(), "old runs resume"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "one class name for each of the 3 classes, but there are 1: a"),
        (list("abcdefg"), r"there are 7: a, b, c, d, e, \.\.\."),
        (["a", "b", "a"], "must differ from each other and not be empty, but 'a' is"),
        (["a", " ", "b"], "must differ from each other and not be empty, but ' ' is"),
    ],
)
def test_class_names_that_do_not_fit(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageData.from_arrays("own", {**arrays(), "class_names": names})


def test_class_folders_are_the_class_names(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in ("wasp", "ant"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (16, 16)).save(tmp_path / part / name / "one.png")
    assert class_names_of(load_data(f"imagefolder:{tmp_path}")) == ("ant", "wasp")
