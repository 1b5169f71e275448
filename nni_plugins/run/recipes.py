"""How weights are trained in a search and in a retraining: every setting, its range and its meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nni_plugins.tools.checked import Checked, setting


@dataclass(frozen=True)
class Recipe(Checked):
    """SGD with a learning rate that changes by the epoch.

    Parameters
    ----------
    epochs
        Length of the training.
    batch_size
        Images per step.
    lr
        Learning rate at the start.
    schedule
        How it falls from there: ``cosine`` or ``linear`` to ``lr_min``, or ``exponential``, by ``lr_decay`` an epoch.
    lr_min
        Learning rate at the end of a cosine or a line.
    lr_decay
        Factor of an exponential schedule.
    lr_warmup_epochs
        Epochs of linear warm-up to ``lr``.
    momentum, nesterov, weight_decay
        Those of SGD.
    label_smoothing
        Share of the target spread over all classes.
    precision
        ``32-true``, or ``bf16-mixed`` for bfloat16 autocast.
    channels_last
        Whether the channels of a pixel lie next to each other in memory; None for what was measured to be faster on
        the device: yes on a CPU, no on a GPU, where nobody has measured it here.
    devices
        GPUs, or processes on the CPU where there is none, that share every batch; a retraining takes as many as its
        search unless it is set.
    """

    epochs: int = setting(50, at_least=1)
    batch_size: int = setting(256, at_least=2)
    lr: float = setting(0.1, above=0)
    schedule: Literal["cosine", "linear", "exponential"] = "cosine"
    lr_min: float = setting(0.0, at_least=0)
    lr_decay: float = setting(0.97, above=0, at_most=1)
    lr_warmup_epochs: int = setting(0, at_least=0)
    momentum: float = setting(0.9, at_least=0, below=1)
    nesterov: bool = False
    weight_decay: float = setting(3e-4, at_least=0)
    label_smoothing: float = setting(0.0, at_least=0, below=1)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    channels_last: bool | None = None
    devices: int = setting(1, at_least=1)

    def check(self) -> None:
        """Refuse a schedule that would rise, Nesterov's momentum without momentum, and batches that cannot be shared.

        Raises
        ------
        ValueError
            If there is one of them.
        """
        if self.lr_min > self.lr:
            raise ValueError(
                f"lr_min must be at most lr, where the schedule starts, got lr_min={self.lr_min} and lr={self.lr}."
            )
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov must be false where momentum is 0, got true; give SGD a momentum such as 0.9.")
        if self.batch_size % self.devices or self.batch_size < 2 * self.devices:
            raise ValueError(
                f"batch_size must be a multiple of devices that gives each at least 2 images, got batch_size="
                f"{self.batch_size} and devices={self.devices}."
            )


@dataclass(frozen=True)
class SearchRecipe(Recipe):
    """A :class:`Recipe` for the supernet.

    Parameters
    ----------
    weights_fraction, architecture_fraction
        Shares of every class of the training set for the weights and for the architecture; the paper takes halves on
        CIFAR-10, 10 % and 2.5 % on ImageNet.
    cutout
        Side of the square cut out of augmented images, in pixels.
    augment_validation
        Validate on augmented images, as RelativeNAS's released code does.
    compile
        Run the mixing cells of both steps through torch.compile, which needs a C++ compiler, or Triton on a GPU.
        The first steps take many minutes more, and results differ in the last bits; no gain has been measured yet.
    consistency_batches
        Validation batches per epoch on which the supernet is compared with its derived sub-graph; 0 for none.
    hessian, hessian_stop
        Measure the dominant eigenvalue of the validation loss's Hessian every epoch, and stop when it grows.
    table
        NAS-Bench-201 table (.npz). A search looks every epoch's cell up in it, for people only; a trial that evaluates
        one cell takes its validation accuracy in place of training.
    latency_table
        Table of operation times that ``nni-plugins latency`` has measured; what it predicts of every epoch's cell is
        reported.
    latency_weight, latency_target
        Let latency count in the search: ``latency_weight * max(0, latency / latency_target - 1)`` is added to the loss
        of the architecture step or of a candidate, the target in milliseconds. Without a target
        ``latency_weight * (latency / typical - 1)``, relative to the mean over the space. A trial that evaluates one
        cell takes a hundred times that from its accuracy in percent.
    """

    weights_fraction: float = setting(0.5, above=0, below=1)
    architecture_fraction: float = setting(0.5, above=0, below=1)
    cutout: int = setting(0, at_least=0)
    augment_validation: bool = False
    compile: bool = False
    consistency_batches: int = setting(4, at_least=0)
    hessian: bool = False
    hessian_stop: bool = False
    table: str | None = setting(None, none="no table")
    latency_table: str | None = setting(None, none="no table")
    latency_weight: float = setting(0.0, at_least=0)
    latency_target: float | None = setting(None, above=0, none="the mean over the space")

    def check(self) -> None:
        """Refuse shares of the training set that overlap, a latency without table, and what :class:`Recipe` refuses.

        Raises
        ------
        ValueError
            If there is one of them.
        """
        super().check()
        if self.weights_fraction + self.architecture_fraction > 1:
            raise ValueError(
                f"weights_fraction and architecture_fraction must add up to at most 1, since they share one training "
                f"set, got {self.weights_fraction} and {self.architecture_fraction}."
            )
        if self.latency_table is None and (self.latency_weight or self.latency_target is not None):
            raise ValueError(
                "latency_weight and latency_target need latency_table, a file that nni-plugins latency measures, got "
                "none."
            )
        if self.latency_target is not None and not self.latency_weight:
            raise ValueError("latency_target needs a latency_weight above 0, such as 1, got 0.")


@dataclass(frozen=True)
class RetrainRecipe(Recipe):
    """A :class:`Recipe` for the derived network; defaults are BNAS-v2's on CIFAR-10.

    Parameters
    ----------
    gradient_clip_val
        Largest norm of the gradient.
    cutout
        Side of the square cut out of every training image, in pixels.
    drop_path
        Drop-path probability at the last epoch, growing linearly.
    auxiliary_weight
        Weight of the auxiliary head's loss, where the network has such a head.
    ema_decay
        Test, and keep, an exponential moving average of the weights with this decay per step instead of the last ones.
    test_every
        Epochs between tests while the network trains; 0 for one test after the last epoch, which is the headline in any
        case. The best of several tests is chosen on the test set: reports call it optimistic.
    """

    epochs: int = setting(600, at_least=1)
    batch_size: int = setting(128, at_least=2)
    lr: float = setting(0.025, above=0)
    gradient_clip_val: float | None = setting(5.0, above=0, none="no clipping")
    cutout: int = setting(16, at_least=0)
    drop_path: float = setting(0.3, at_least=0, below=1)
    auxiliary_weight: float = setting(0.0, at_least=0)
    ema_decay: float | None = setting(None, above=0, below=1, none="no average")
    test_every: int = setting(0, at_least=0)
