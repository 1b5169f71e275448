"""Loaders whose every batch follows from (seed, epoch), so that an interrupted run resumes as if it had not been."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from nni_plugins.data.augmentation import Augmentation
from nni_plugins.tools.ranks import number_of_ranks, own_rank


def seeded(*numbers: int) -> torch.Generator:
    """Return a CPU generator that depends on all of ``numbers`` (non-negative), near ones giving unrelated draws."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


class EpochLoader:
    """An iterable of batches in which pass ``e`` depends on ``(seed, e)`` and on nothing else.

    Order and augmentation are drawn on the CPU, hence equal on every device. A pass takes its number ``e = epoch`` and
    moves ``epoch`` on to ``e + 1`` when its *first batch* is asked for: merely calling ``iter`` (as Lightning does once
    to check a loader) uses nothing up, and a consumer that stops at the last batch without asking for one more (as
    Lightning does) still leaves the right number. So at the end of pass ``e`` the state is ``{"epoch": e + 1}``, and
    whoever loads it continues with pass ``e + 1``. A position inside a pass is not kept.

    Lightning stores a loader's ``state_dict`` in every checkpoint, but loads it only when it restarts in the middle of
    an epoch, not from a checkpoint made at the end of one. What it does before every epoch, a resumed one too, is to
    call ``loader.sampler.set_epoch(e)``; ``sampler`` is therefore the loader itself.

    Where several processes train together, each gets its share of every batch: their shares are disjoint, and together
    they are the batches of a single process, image for image, the augmentation included. Training batches are shared
    equally; in other passes shares differ by one image at most, so that no process is ever without one.

    Parameters
    ----------
    count
        Number of images of a pass (the pool that is shuffled).
    batch_size
        Images per batch.
    seed
        Non-negative seed of order and augmentation.
    shuffle
        New order in every pass; otherwise the given one.
    drop_last
        Leave out a last batch that is not full.
    batches
        Exact number of full batches of a pass. If that is more than the images give, they are gone through again, each
        time in a new order; it keeps two loaders of unlike sizes in step.

    Raises
    ------
    ValueError
        If ``batch_size`` or ``batches`` is not positive, if a pass would be empty, or if processes that train together
        cannot share its batches.
    """

    batch_sampler = None  # Lightning reads this attribute of whatever has a sampler.

    def __init__(
        self, count: int, *, batch_size: int, seed: int, shuffle: bool, drop_last: bool, batches: int | None = None
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, but is {batch_size}.")
        if batches is not None and batches < 1:
            raise ValueError(f"batches must be at least 1, but is {batches}.")
        if count < (batch_size if drop_last and batches is None else 1):
            raise ValueError(
                f"batch_size {batch_size} exceeds the {count} images; lower batch_size to {count} or less."
            )
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self._count = count
        self._shuffle = shuffle
        full = count // batch_size if drop_last else -(-count // batch_size)
        self._batches = full if batches is None else batches
        self._images = self._batches * batch_size if drop_last or batches is not None else count
        self._rank, self._ranks = own_rank(), number_of_ranks()
        if drop_last and batch_size % self._ranks:
            raise ValueError(
                f"batch_size {batch_size} cannot be shared equally by {self._ranks} processes; make it a multiple of "
                "devices."
            )
        if self._images < self._batches * self._ranks:
            raise ValueError(
                f"{count} images in batches of {batch_size} are too few for {self._ranks} processes to share; lower "
                "devices."
            )

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = seeded(self.seed, self.epoch)
        self.epoch += 1
        yield from self._pass(generator)

    def _pass(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one pass: float32 images (B, C, H, W) and int64 labels (B,)."""
        raise NotImplementedError

    def _order(self, generator: torch.Generator) -> Tensor:
        """Positions in the pool, (images of a pass,) int64."""
        rounds = -(-self._images // self._count)
        orders = [
            torch.randperm(self._count, generator=generator) if self._shuffle else torch.arange(self._count)
            for _ in range(rounds)
        ]
        return torch.cat(orders)[: self._images]

    def _own_share(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Cut ``rows``, one for each image of a pass, into this process's share of every batch."""
        if self._ranks == 1:
            return rows.split(self.batch_size)
        return rows.tensor_split(self._batches * self._ranks)[self._rank :: self._ranks]

    @property
    def sampler(self) -> EpochLoader:
        """The object whose ``set_epoch`` Lightning calls before each epoch: the loader itself."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass be number ``epoch``."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """``{"epoch": number of the next pass}``."""
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue with the pass that :meth:`state_dict` named."""
        self.epoch = state["epoch"]


class Normalise:
    """Pixels in 0 .. 255 to float32 with zero mean and unit deviation per channel: ``(x / 255 - mean) / std``.

    Parameters
    ----------
    mean, std
        One number per channel, in units of the full range [0, 1].
    device
        Where the images are.
    channels_last
        Give images whose channels lie next to each other in memory.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], *, device: torch.device | str, channels_last: bool = False
    ) -> None:
        self._shift = torch.tensor(mean, dtype=torch.float32, device=device).mul_(255).view(-1, 1, 1)
        self._scale = torch.tensor(std, dtype=torch.float32, device=device).mul_(255).view(-1, 1, 1)
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, x: Tensor) -> Tensor:
        return x.to(torch.float32, memory_format=self._format).sub_(self._shift).div_(self._scale)


class DeviceLoader(EpochLoader):
    """Batches cut out of a set that lies on the device as uint8; no worker processes, no copy per batch to the device.

    See :class:`EpochLoader` for the meaning of a pass and of its number.

    Parameters
    ----------
    x, y
        Images (N, C, H, W) uint8 and labels (N,) int64. They are moved to ``device``; what is there already is shared,
        not copied.
    batch_size, shuffle, drop_last, seed, batches
        As in :class:`EpochLoader`.
    mean, std
        Per channel, in units of the full range [0, 1].
    indices
        (n,) int64, the images to use; by default all.
    augmentation
        What training images undergo; by default nothing.
    device
        Where the set lies and the batches come out.
    channels_last
        Memory format of the batches.

    Raises
    ------
    ValueError
        As :class:`EpochLoader`.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        indices: Tensor | None = None,
        augmentation: Augmentation | None = None,
        shuffle: bool,
        drop_last: bool,
        seed: int,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
        batches: int | None = None,
    ) -> None:
        self._indices = torch.arange(len(x)) if indices is None else indices.cpu()
        super().__init__(
            len(self._indices),
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            drop_last=drop_last,
            batches=batches,
        )
        self._x, self._y = x.to(device), y.to(device)
        self._augmentation = augmentation or Augmentation(crop_padding=0, flip=False)
        self._normalise = Normalise(mean, std, device=device, channels_last=channels_last)

    def _pass(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        augmentation = self._augmentation
        images = self._indices[self._order(generator)]
        height, width = self._x.shape[2:]
        draws = augmentation.draw(len(images), (height, width), generator)
        # One transfer for the whole pass: the batches themselves are made without any word from the CPU.
        images, draws = images.to(self._x.device), draws.to(self._x.device)
        for chosen, drawn in zip(self._own_share(images), self._own_share(draws), strict=True):
            x = self._normalise(augmentation.move(self._x[chosen], drawn))
            yield augmentation.erase_(x, drawn), self._y[chosen]
