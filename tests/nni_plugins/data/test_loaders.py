from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nni_plugins.data import (
    Augmentation,
    DeviceLoader,
    ImageData,
    StreamedImages,
    load_data,
    retrain_loaders,
    search_loaders,
    split_halves,
)
from nni_plugins.data.splits import evaluation_batch_size


def small_set(n_train: int = 12) -> ImageData:
    x = torch.randint(0, 256, (n_train + 6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    y = torch.arange(n_train + 6) % 3
    return ImageData("small", x[:n_train], y[:n_train], x[n_train:], y[n_train:], num_classes=3)


def passes(loader, count: int = 1) -> list[list[tuple[Tensor, Tensor]]]:
    return [list(loader) for _ in range(count)]


def same(a, b) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, v) and torch.equal(y, w) for (x, y), (v, w) in zip(a, b, strict=True)
    )


# --- splits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0.10, 0.025), (0.8, 0.2)])
def test_split_is_disjoint_stratified_and_seeded(fractions: tuple[float, float]) -> None:
    y = torch.tensor([0] * 200 + [1] * 400 + [2] * 40)[torch.randperm(640, generator=torch.Generator().manual_seed(0))]
    first, second = split_halves(y, seed=3, fractions=fractions)
    assert not set(first.tolist()) & set(second.tolist())
    for part, fraction in ((first, fractions[0]), (second, fractions[1])):
        assert y[part].bincount().tolist() == [round(200 * fraction), round(400 * fraction), round(40 * fraction)]
        assert part.tolist() == sorted(part.tolist())
    again, other = split_halves(y, seed=3, fractions=fractions), split_halves(y, seed=4, fractions=fractions)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])
    assert not torch.equal(first, other[0])


def test_split_in_halves_uses_every_image() -> None:
    y = torch.tensor([0] * 7 + [1] * 5)
    first, second = split_halves(y, seed=0)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(12))


@pytest.mark.parametrize("fractions", [(0.0, 0.5), (0.5, -0.1), (0.7, 0.4)])
def test_impossible_fractions(fractions: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="fractions must be positive with a sum of at most 1"):
        split_halves(torch.zeros(10, dtype=torch.int64), seed=0, fractions=fractions)


def test_a_class_too_small_to_split() -> None:
    with pytest.raises(ValueError, match=r"class 1 has too few training images \(1\) for both parts"):
        split_halves(torch.tensor([0, 0, 0, 0, 1]), seed=0)


# --- loaders ----------------------------------------------------------------------------------------------------------


def device_loader(seed: int = 0, **options) -> DeviceLoader:
    data = small_set(n_train=30)
    defaults = {"batch_size": 8, "shuffle": True, "drop_last": True, "augmentation": Augmentation(2, True, 3)}
    return DeviceLoader(data.x_train, data.y_train, mean=data.mean, std=data.std, seed=seed, **{**defaults, **options})


def test_batches_are_normalised_images_with_their_labels() -> None:
    data = small_set(n_train=30)
    loader = data.loader("train", training=False, batch_size=8, seed=0)
    batches = list(loader)
    x, y = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
    assert [len(y) for _, y in batches] == [8, 8, 8, 6]
    assert len(loader) == 4
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert torch.equal(y, data.y_train)
    expected = (data.x_train / 255 - torch.tensor(data.mean)[:, None, None]) / torch.tensor(data.std)[:, None, None]
    assert torch.allclose(x, expected, atol=1e-5)
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


def test_padding_is_black_and_cutout_is_the_mean() -> None:
    x, y = torch.full((64, 1, 8, 8), 255, dtype=torch.uint8), torch.zeros(64, dtype=torch.int64)
    options: dict[str, Any] = dict(batch_size=64, mean=(0.5,), std=(0.25,), shuffle=True, drop_last=True, seed=0)
    ((padded, _),) = DeviceLoader(x, y, augmentation=Augmentation(2, False, 0), **options)
    assert sorted(padded.unique().tolist()) == [-2.0, 2.0]
    ((cut, _),) = DeviceLoader(x, y, augmentation=Augmentation(2, False, 3), **options)
    assert sorted(cut.unique().tolist()) == [-2.0, 0.0, 2.0]
    # Switching cutout on leaves the crops as they were.
    assert torch.equal(cut[cut != 0], padded[cut != 0])


def test_shuffled_pass_shows_every_image_once() -> None:
    loader = device_loader(augmentation=None, drop_last=False)
    ((*batches,),) = passes(loader)
    seen = torch.cat([x for x, _ in batches]).flatten(1)
    plain = torch.cat([x for x, _ in device_loader(augmentation=None, drop_last=False, shuffle=False)]).flatten(1)
    assert not torch.equal(seen, plain)
    assert {tuple(row) for row in seen.tolist()} == {tuple(row) for row in plain.tolist()}


def test_indices_choose_the_images() -> None:
    chosen = torch.tensor([5, 2, 11])
    ((x, y),) = device_loader(indices=chosen, augmentation=None, shuffle=False, drop_last=False)
    every = torch.cat([x for x, _ in device_loader(augmentation=None, shuffle=False, drop_last=False)])
    assert torch.equal(x, every[chosen])
    assert y.tolist() == [2, 2, 2]


def test_batches_follow_from_seed_and_epoch_alone() -> None:
    first, second = passes(device_loader(), 2)
    torch.manual_seed(99)
    again = passes(device_loader(), 2)
    assert same(first, again[0])
    assert same(second, again[1])
    assert not same(first, second)
    assert not same(first, list(device_loader(seed=1)))


def test_merely_calling_iter_uses_no_pass_up() -> None:
    loader = device_loader()
    iter(loader)
    assert loader.epoch == 0
    next(iter(loader))
    assert loader.epoch == 1


def test_state_round_trip() -> None:
    loader, resumed = device_loader(), device_loader()
    passes(loader, 2)
    assert loader.state_dict() == {"epoch": 2}
    resumed.load_state_dict(loader.state_dict())
    assert same(list(loader), list(resumed))


def test_exact_number_of_batches_repeats_the_set_in_new_orders() -> None:
    loader = device_loader(augmentation=None, batches=9, drop_last=False)
    ((*batches,),) = passes(loader)
    assert len(loader) == len(batches) == 9
    assert {len(y) for _, y in batches} == {8}
    images = torch.cat([x for x, _ in batches]).flatten(1)
    counts = images.unique(dim=0, return_counts=True)[1]
    assert sorted(counts.tolist()) == [2] * 18 + [3] * 12  # 72 = 2 * 30 + 12
    assert not torch.equal(images[:30], images[30:60])


def test_channels_last_changes_the_memory_format_only() -> None:
    plain, last = next(iter(device_loader()))[0], next(iter(device_loader(channels_last=True)))[0]
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_does_not_change_the_batches() -> None:
    for (x, y), (v, w) in zip(device_loader(), device_loader(device="cuda"), strict=True):
        assert v.is_cuda
        assert torch.equal(y, w.cpu())
        assert torch.allclose(x, v.cpu(), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, but is 0"),
        ({"batch_size": 31}, "batch_size 31 exceeds the 30 images; lower batch_size to 30 or less"),
        ({"batches": 0}, "batches must be at least 1, but is 0"),
    ],
)
def test_impossible_batches(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        device_loader(**options)


# --- loaders of a search and of a retraining --------------------------------------------------------------------------


def test_a_search_sees_two_halves_of_the_training_set_and_no_test_image() -> None:
    x = torch.arange(80, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)  # every image has its own grey
    y = torch.arange(80) % 2
    data = ImageData("greys", x[:60], y[:60], x[60:], y[60:], num_classes=2)

    def greys(loader) -> set[int]:
        centres = torch.cat([x for x, _ in loader])[:, 0, 4, 4]
        return set((centres * data.std[0] * 255 + data.mean[0] * 255).round().int().tolist())

    train, val_arch, val_eval, _ = search_loaders(data, batch_size=5, seed=0, device="cpu")
    weights, architecture = greys(train), greys(val_arch)
    assert len(weights) == len(architecture) == 30
    assert not weights & architecture
    assert weights | architecture == set(range(60))
    assert greys(val_eval) == architecture
    assert len(train) == len(val_arch) == 6
    assert train.seed != val_arch.seed  # unlike draws
    assert same(*passes(val_eval, 2))  # unaugmented, in order
    assert not same(*passes(train, 2))
    retrain, test = retrain_loaders(data, batch_size=6, seed=0, device="cpu")
    assert greys(retrain) == set(range(60))
    assert greys(test) == set(range(60, 80))


def test_a_smaller_architecture_part_keeps_step_with_the_weights() -> None:
    data = small_set(n_train=480)
    train, val_arch, val_eval, _ = search_loaders(data, batch_size=10, seed=0, device="cpu", fractions=(0.5, 0.125))
    assert len(train) == len(val_arch) == len(list(val_arch)) == 24
    assert len(val_eval) == 6


def test_a_batch_larger_than_a_part() -> None:
    data = small_set(n_train=30)
    with pytest.raises(ValueError, match="batch_size 16 exceeds the 15 images of the weights part of small's"):
        search_loaders(data, batch_size=16, seed=0, device="cpu")
    with pytest.raises(ValueError, match=r"exceeds the 6 images of the architecture part .*lower it to 6 or less"):
        search_loaders(data, batch_size=8, seed=0, device="cpu", fractions=(0.5, 0.2))
    with pytest.raises(ValueError, match="batch_size 31 exceeds the 30 images of small's training set"):
        retrain_loaders(data, batch_size=31, seed=0, device="cpu")


@pytest.mark.parametrize(
    ("device", "batch_size", "expected"),
    [("cuda", 64, 256), ("cuda", 256, 512), ("cuda", 1024, 1024), ("cpu", 64, 64)],
)
def test_size_of_evaluation_batches(device: str, batch_size: int, expected: int) -> None:
    assert evaluation_batch_size(batch_size, device) == expected


@pytest.mark.parametrize("augmented", [False, True])
def test_larger_batches_hold_the_same_images(monkeypatch: pytest.MonkeyPatch, augmented: bool) -> None:
    monkeypatch.setattr("nni_plugins.data.splits.evaluation_batch_size", lambda batch_size, device: 3 * batch_size)
    data = small_set(n_train=60)
    _, _, validation, evaluation = search_loaders(
        data, batch_size=4, seed=0, device="cpu", augment_validation=augmented
    )
    assert [len(x) for x, _ in validation] == [4] * 7 + [2]
    assert [len(x) for x, _ in evaluation] == [12, 12, 6]
    for loader in (validation, evaluation):
        loader.set_epoch(3)
    small, large = list(validation), list(evaluation)
    for part in (0, 1):
        assert torch.equal(torch.cat([batch[part] for batch in small]), torch.cat([batch[part] for batch in large]))


# --- image folders ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for label in ("ant", "bee"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / label / f"{i}.png")
    return tmp_path


def streamed(folder: Path, workers: int = 0) -> StreamedImages:
    data = load_data(f"imagefolder:{folder}")
    assert isinstance(data, StreamedImages)
    return StreamedImages(data.name, data.train, data.test, image_size=14, workers=workers)


def test_image_folder(folder: Path) -> None:
    data = load_data(f"imagefolder:{folder}")
    assert isinstance(data, StreamedImages)
    assert (data.num_classes, data.in_channels, data.image_size) == (2, 3, 20)
    assert data.mean == (0.485, 0.456, 0.406)
    assert data.y_train.tolist() == [0] * 8 + [1] * 8
    small = streamed(folder)
    train, test = retrain_loaders(small, batch_size=5, seed=0, device="cpu", cutout=4)
    batches = list(train)
    assert len(train) == len(batches) == 3
    assert all(x.shape == (5, 3, 14, 14) and x.dtype == torch.float32 for x, _ in batches)
    assert all(((x == 0).all(1).sum((1, 2)) >= 4).all() for x, _ in batches)  # cutout
    assert torch.cat([y for _, y in test]).tolist() == [0, 0, 0, 1, 1, 1]


def test_image_folder_evaluation_is_the_normalised_centre_of_the_resized_image(folder: Path) -> None:
    from torchvision.transforms.v2 import functional

    data = streamed(folder)
    x, _ = next(iter(data.loader("test", training=False, batch_size=2, seed=0)))
    image = functional.center_crop(functional.resize(data.test[1][0], [16], antialias=True), [14])
    expected = functional.normalize(functional.to_dtype(functional.to_image(image), scale=True), data.mean, data.std)
    assert torch.allclose(x[1], expected, atol=1e-5)


def test_image_folder_batches_follow_from_seed_and_epoch_alone(folder: Path) -> None:
    data = streamed(folder)
    first = search_loaders(data, batch_size=3, seed=0, device="cpu", fractions=(0.5, 0.4))
    workers = search_loaders(streamed(folder, workers=2), batch_size=3, seed=0, device="cpu", fractions=(0.5, 0.4))
    assert [len(loader) for loader in first] == [2, 2, 2, 2]
    state = torch.get_rng_state()
    one, two = passes(first[0], 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert not same(one, two)
    workers[0].load_state_dict({"epoch": 1})
    assert same(two, list(workers[0]))
    assert same(*passes(first[2], 2))


def test_image_folder_that_is_incomplete(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"needs the folders .*train and .*val .*one sub-folder of images per"):
        load_data(f"imagefolder:{folder / 'train'}")
    (folder / "val" / "bee").rename(folder / "val" / "wasp")
    with pytest.raises(ValueError, match="same class folders, but only one of them has bee, wasp"):
        load_data(f"imagefolder:{folder}")


def test_image_folder_may_be_called_test(folder: Path) -> None:
    (folder / "val").rename(folder / "test")
    data = load_data(f"imagefolder:{folder}")
    assert len(data.y_test) == 6


# --- under Lightning --------------------------------------------------------------------------------------------------


def lightning_run(folder: Path, *, epochs: int, resume: Path | None = None, warm: bool = False) -> list[tuple]:
    """Fit a tiny module on fresh loaders, saving a checkpoint after every epoch; what each step got, by epoch."""
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.seen: list[tuple] = []
            self.states: list[dict] = []

        def training_step(self, batch: dict, index: int) -> Tensor:
            (x, y), (v, w) = batch["train"], batch["val"]
            self.seen.append((self.current_epoch, x.sum().item(), y.tolist(), v.sum().item(), w.tolist()))
            return self.layer(x.mean().view(1, 1)).sum()

        def validation_step(self, batch: tuple, index: int) -> None:
            pass

        def on_train_epoch_end(self) -> None:
            loaders: Any = self.trainer.train_dataloader
            states = [loader.state_dict() for loader in loaders.values()]
            assert states == [{"epoch": self.current_epoch + 1}] * 2
            self.trainer.save_checkpoint(folder / f"{self.current_epoch}.ckpt")

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data = small_set(n_train=40)
    train, val, evaluation, _ = search_loaders(data, batch_size=6, seed=0, device="cpu", fractions=(0.6, 0.3))
    module = Module()
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, {"train": train, "val": val}, evaluation, ckpt_path=None if resume is None else str(resume))
    return module.seen


def test_an_interrupted_lightning_fit_sees_the_batches_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = lightning_run(tmp_path, epochs=4)
    assert [step[0] for step in whole] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert len({step[1] for step in whole}) == len({step[3] for step in whole}) == 16
    for last in (0, 2):
        assert lightning_run(tmp_path, epochs=4, resume=tmp_path / f"{last}.ckpt") == whole[4 * (last + 1) :]
    states = torch.load(tmp_path / "1.ckpt", weights_only=True)["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert states == [{"epoch": 2}, {"epoch": 2}]
