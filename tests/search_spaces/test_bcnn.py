"""The broad CNN: parameter counts of the released code, which tensor goes where, and NNI's own strategies on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.evaluator.pytorch import Classification, DataLoader
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.strategy import DARTS, RandomOneShot, RegularizedEvolution
from torch import nn
from torch.utils.data import TensorDataset
from torchvision.ops import StochasticDepth

import nni_plugins
from nni_plugins import BNASD, BNASv2PC
from nni_plugins.supernet.architecture import CellArchitecture
from search_spaces import BCNN, Genotype, evaluation_net, published
from search_spaces.cells import set_drop_path
from search_spaces.image_shapes import IMAGE_SHAPES
from search_spaces.operations import InterleavedConv

CLR_V1 = published("bnas_v2_clr_v1")
PC_V1 = published("bnas_v2_pc_v1")


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def architecture_parameters(supernet: nn.Module) -> dict[str, int]:
    return {m.label: parameters(m) for m in supernet.modules() if isinstance(m, CellArchitecture)}


# Golden numbers of the released code


@pytest.mark.parametrize(
    ("strategy", "weights", "architecture"),
    [(BNASD(), 1_224_762, 14 * 8), (BNASv2PC(), 289_242, 14 * 8 + 14)],
    ids=lambda value: type(value).__name__,
)
def test_supernet_parameters(strategy: nni_plugins.BilevelSearch, weights: int, architecture: int) -> None:
    supernet = strategy.mutate_model(BCNN())
    assert architecture_parameters(supernet) == {"convolution": architecture, "enhancement": architecture}
    assert parameters(supernet) == weights + 2 * architecture
    assert supernet.classifier.in_features == 304


def test_evaluation_parameters_of_every_part() -> None:
    net: Any = evaluation_net(CLR_V1)
    assert parameters(net) == 3_338_074
    assert parameters(net.stem0) == 4_176
    assert net.stem1 is None
    assert [parameters(cell) for cell in net.convolution_cells] == [52_368, 54_672, 173_856, 192_288, 210_720, 661_056]
    assert [parameters(cell) for cell in net.enhancement_cells] == [205_632, 334_656]
    # an embedding's first module is its 1x1 convolution, the others are its reductions
    embeddings = [net.convolution_to_pooling, net.convolution_to_enhancement, net.enhancement_to_pooling]
    assert [[parameters(embedding[0]) for embedding in family] for family in embeddings] == [
        [9_312, 37_056],
        [37_056, 591_360],
        [147_840, 591_360],
    ]
    assert [[parameters(halving) for embedding in family for halving in embedding[1:]] for family in embeddings] == [
        [2_400, 2_400, 9_408],
        [9_408],
        [],
    ]
    assert parameters(net.classifier) == 11_050
    assert net.classifier.in_features == 1104


def test_evaluation_parameters_of_the_partial_channel_cell() -> None:
    assert parameters(evaluation_net(PC_V1)) == 3_678_682


# Shapes


class Trace:
    """What went into and came out of every module of a network in one forward pass."""

    def __init__(self, net: nn.Module, images: torch.Tensor) -> None:
        self.inputs: dict[nn.Module, Any] = {}
        self.outputs: dict[nn.Module, torch.Tensor] = {}
        handles = [module.register_forward_hook(self._note) for module in net.modules()]
        with torch.no_grad():
            self.logits = net.eval()(images)
        for handle in handles:
            handle.remove()

    def _note(self, module: nn.Module, inputs: tuple[Any], output: torch.Tensor) -> None:
        self.inputs[module], self.outputs[module] = inputs[0], output

    def shapes(self, modules: Any) -> list[tuple[int, ...]]:
        """Channels and height of the outputs."""
        return [tuple(self.outputs[module].shape[1:3]) for module in modules]


def images(size: int = 16, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_search_net() -> None:
    net = BNASD().mutate_model(BCNN(num_classes=7, in_channels=1, channels=4))
    trace = Trace(net, images(channels=1))
    assert trace.shapes([net.stem0]) == [(12, 16)]
    assert trace.shapes(net.convolution_cells) == [(4 * 8, 8), (4 * 16, 4)]
    assert trace.shapes(net.enhancement_cells) == [(4 * 16, 4)]
    assert trace.shapes(net.convolution_to_pooling) == [(4, 4), (8, 4)]
    assert trace.shapes(net.convolution_to_enhancement) == [(8, 4), (64, 4)]
    assert trace.shapes(net.enhancement_to_pooling) == [(64, 4)]
    assert net.classifier.in_features == 4 + 8 + 64
    assert trace.logits.shape == (2, 7)


def test_evaluation_net() -> None:
    net: Any = evaluation_net(CLR_V1, channels=4)
    trace = Trace(net, images())
    widths = [4, 4, 8, 8, 8, 16]
    sizes = [16, 16, 8, 8, 8, 4]
    assert trace.shapes(net.convolution_cells) == [(4 * w, size) for w, size in zip(widths, sizes, strict=True)]
    assert trace.shapes(net.enhancement_cells) == [(64, 4), (64, 4)]
    assert trace.shapes(net.convolution_to_pooling) == [(4, 4), (8, 4)]
    assert trace.shapes(net.convolution_to_enhancement) == [(8, 4), (64, 4)]
    assert trace.shapes(net.enhancement_to_pooling) == [(16, 4), (64, 4)]
    assert trace.logits.shape == (2, 10)


def test_only_the_inputs_of_broad_cells_are_strided() -> None:
    supernet = BNASD().mutate_model(BCNN(channels=4, deep_cells=1))
    strided = {
        name.split("operations.")[0] + name.split("operations.")[1].split("_")[0]
        for name, module in supernet.named_modules()
        if "operations." in name and isinstance(module, nn.Conv2d) and module.stride == (2, 2)
    }
    # name of the cell, then the number of the source node
    assert strided == {f"convolution_cells.{cell}.{source}" for cell in (1, 3) for source in (0, 1)}


def test_input_0_is_reduced_only_after_a_broad_cell() -> None:
    net: Any = evaluation_net(CLR_V1, channels=4)

    def reduces(cell: Any) -> bool:
        return any(isinstance(module, InterleavedConv) for module in cell.preprocessor.modules())

    assert [reduces(cell) for cell in net.convolution_cells] == [False, False, False, True, False, False]
    assert [reduces(cell) for cell in net.enhancement_cells] == [False, False]
    search = BCNN(channels=4)
    assert [reduces(cell) for cell in search.convolution_cells] == [False, True]
    assert not any(isinstance(m, InterleavedConv) for c in net.enhancement_cells for m in c.modules())


def test_batch_norms_are_affine_in_evaluation_and_only_between_cells_in_search() -> None:
    def affine(module: nn.Module) -> set[bool]:
        return {m.affine for m in module.modules() if isinstance(m, nn.BatchNorm2d)}

    supernet = BNASD().mutate_model(BCNN(channels=4))
    cells = [*supernet.convolution_cells, *supernet.enhancement_cells]
    assert set.union(*map(affine, cells)) == {False}
    embeddings = [supernet.convolution_to_pooling, supernet.convolution_to_enhancement, supernet.enhancement_to_pooling]
    assert set.union(*map(affine, embeddings), affine(supernet.stem0)) == {True}
    assert affine(evaluation_net(CLR_V1, channels=4)) == {True}


@pytest.mark.parametrize("search", [True, False])
def test_imagenet(search: bool) -> None:
    settings: dict[str, Any] = {"stem": "imagenet", "channels": 4, "num_classes": 5}
    net: Any
    if search:
        net = BNASv2PC(channels=nni_plugins.PartialChannels(2)).mutate_model(BCNN(**settings))
    else:
        net = evaluation_net(published("bnas_v2_pc_image"), deep_cells=0, enhancement_cells=1, **settings)
    trace = Trace(net, images(224))
    width = 12 if search else 4
    assert trace.shapes([net.stem0, net.stem1]) == [(width, 56), (width, 28)]
    assert [conv.out_channels for conv in net.stem0 if isinstance(conv, nn.Conv2d)] == [width // 2, width]
    assert trace.shapes(net.convolution_cells) == [(32, 14), (64, 7)]
    assert trace.shapes(net.enhancement_cells) == [(64, 7)]
    first = net.convolution_cells[0]
    assert trace.inputs[first] == [trace.outputs[net.stem0], trace.outputs[net.stem1]]
    assert isinstance(first.preprocessor.input0[1], InterleavedConv)
    assert trace.inputs[net.convolution_to_pooling[0]] is trace.outputs[net.stem1]


# Which tensor goes where


def assert_same_tensors(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert [id(tensor) for tensor in actual] == [id(tensor) for tensor in expected]


@pytest.mark.parametrize("deep_cells", [0, 1, 2])
def test_routes(deep_cells: int) -> None:
    net: Any = evaluation_net(CLR_V1, channels=4, deep_cells=deep_cells, enhancement_cells=3)
    trace = Trace(net, images())
    out = trace.outputs
    stem = out[net.stem0]
    chain = [stem, stem, *(out[cell] for cell in net.convolution_cells)]
    for number, cell in enumerate(net.convolution_cells):
        assert_same_tensors(trace.inputs[cell], chain[number : number + 2])

    broad = [net.convolution_cells[deep_cells], net.convolution_cells[2 * deep_cells + 1]]
    for block in (0, 1):
        tap = trace.inputs[net.convolution_to_pooling[block]]
        assert tap is trace.inputs[broad[block]][1]
        assert trace.inputs[net.convolution_to_enhancement[block]] is out[broad[block]]
    if deep_cells == 0:
        assert trace.inputs[net.convolution_to_pooling[0]] is stem
        assert trace.inputs[net.convolution_to_pooling[1]] is out[broad[0]]

    first, second, third = net.enhancement_cells
    embedded = [out[embedding] for embedding in net.convolution_to_enhancement]
    assert torch.equal(trace.inputs[first][0], embedded[0])
    assert trace.inputs[first][1] is embedded[1]
    assert_same_tensors(trace.inputs[second], [out[broad[1]], out[first]])
    assert_same_tensors(trace.inputs[third], [out[first], out[second]])
    for embedding, cell in zip(net.enhancement_to_pooling, net.enhancement_cells, strict=True):
        assert trace.inputs[embedding] is out[cell]

    pooled = [out[embedding] for embedding in (*net.convolution_to_pooling, *net.enhancement_to_pooling)]
    assert torch.equal(trace.inputs[net.global_pooling], torch.cat(pooled, 1))


def test_three_blocks() -> None:
    net: Any = evaluation_net(CLR_V1, channels=4, blocks=3, deep_cells=1, enhancement_cells=2)
    trace = Trace(net, images())
    assert trace.shapes(net.convolution_cells) == [(16, 16), (32, 8), (32, 8), (64, 4), (64, 4), (128, 2)]
    assert trace.shapes(net.convolution_to_pooling) == [(4, 2), (8, 2), (16, 2)]
    assert trace.shapes(net.convolution_to_enhancement) == [(8, 2), (16, 2), (128, 2)]
    embedded = [trace.outputs[embedding] for embedding in net.convolution_to_enhancement]
    first = net.enhancement_cells[0]
    assert torch.equal(trace.inputs[first][0], torch.cat(embedded[:2], 1))
    assert trace.inputs[first][1] is embedded[2]
    assert trace.inputs[net.enhancement_cells[1]][0] is trace.outputs[net.convolution_cells[-1]]
    assert net.classifier.in_features == 4 + 8 + 16 + 32 + 128
    halvings = [len(embedding) - 1 for embedding in net.convolution_to_pooling]
    assert halvings == [3, 2, 1]


# Sizes


def test_layers_are_deep_and_broad_cells_together() -> None:
    by_layers: Any = evaluation_net(CLR_V1, channels=4, layers=4)
    by_deep_cells = evaluation_net(CLR_V1, channels=4, deep_cells=1)
    assert str(by_layers) == str(by_deep_cells)
    assert len(by_layers.convolution_cells) == 4


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"layers": 3}, r"^layers=3 convolution cells cannot be shared evenly by 2 blocks; choose a multiple of 2\.$"),
        ({"layers": 4, "blocks": 3}, r"layers=4 .* 3 blocks; choose a multiple of 3\.$"),
        ({"layers": 0}, r"^layers must be a whole number of at least 2, or None for .*, got 0\.$"),
        ({"layers": -2}, r"^layers must be .*, got -2\.$"),
        ({"blocks": 1}, r"^blocks must be a whole number of at least 2, got 1\.$"),
        ({"enhancement_cells": 0}, r"^enhancement_cells must be a whole number of at least 1, got 0\.$"),
        ({"deep_cells": -1}, r"^deep_cells must be a whole number of at least 0, got -1\.$"),
        ({"channels": 5}, r"^channels must be an even number of at least 2, got 5\.$"),
        ({"channels": 0}, r"^channels must be an even number of at least 2, got 0\.$"),
        ({"stem": "mnist"}, r"^stem must be one of cifar, imagenet, got 'mnist'\.$"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        BCNN(**sizes)


# Evaluation nets


def test_freeze_gives_the_evaluation_net() -> None:
    space = BCNN(num_classes=7, channels=4, deep_cells=1, enhancement_cells=2)
    frozen = space.freeze(PC_V1.to_sample())
    assert str(frozen) == str(evaluation_net(PC_V1, num_classes=7, channels=4, deep_cells=1, enhancement_cells=2))
    assert frozen(images()).shape == (2, 7)
    assert not frozen.simplify()


def test_published_sizes_on_imagenet() -> None:
    net: Any = evaluation_net(published("bnas_v2_pc_image"), dataset="imagenet")
    widths = [cell.preprocessor.input1[1].out_channels for cell in (*net.convolution_cells, *net.enhancement_cells)]
    assert widths == [44, 44, 88, 88, 88, 176, 176, 176]
    assert [conv.out_channels for conv in (*net.stem0, *net.stem1) if isinstance(conv, nn.Conv2d)] == [22, 44, 44]
    assert (net.classifier.in_features, net.classifier.out_features) == (44 + 88 + 176 + 704, 1000)


@pytest.mark.parametrize("dataset", sorted(set(IMAGE_SHAPES) - {"imagenet"}))
def test_classes_and_channels_follow_from_the_data_set(dataset: str) -> None:
    net: Any = evaluation_net(CLR_V1, dataset, channels=4)
    in_channels = 1 if dataset in ("mnist", "fashion_mnist", "digits") else 3
    assert net.stem0[0].in_channels == in_channels
    assert net.classifier.out_features == (100 if dataset == "cifar100" else 10)
    assert (len(net.convolution_cells), len(net.enhancement_cells)) == (6, 2)


def test_sizes_replace_the_published_ones() -> None:
    sizes: Any = dict(channels=4, in_channels=2, num_classes=3, deep_cells=0, enhancement_cells=1)
    net: Any = evaluation_net(CLR_V1, "mnist", **sizes)
    assert (net.stem0[0].in_channels, net.classifier.out_features) == (2, 3)
    assert (len(net.convolution_cells), len(net.enhancement_cells)) == (2, 1)


def test_wrong_arguments_of_the_evaluation_net() -> None:
    with pytest.raises(ValueError, match=r"^Unknown data set 'cifar11'; expected one of cifar10, cifar100, .*\.$"):
        evaluation_net(CLR_V1, "cifar11")
    with pytest.raises(ValueError, match=r"^There is no argument 'width'; expected one of num_classes, "):
        evaluation_net(CLR_V1, width=4)
    with pytest.raises(ValueError, match=r"space 'my:space'; build its network with your space's freeze"):
        evaluation_net(Genotype("my:space", {}))
    with pytest.raises(ValueError, match=r"^Unknown published genotype 'bnas'; expected one of bnas_v2_clr_v1, .*\.$"):
        published("bnas")


def test_drop_path_spares_the_identity_alone() -> None:
    net: Any = evaluation_net(PC_V1, channels=4, drop_path=0.5)
    convolution, enhancement = net.convolution_cells[0], net.enhancement_cells[0]

    def dropped(cell: nn.Module) -> int:
        return sum(isinstance(module, StochasticDepth) for module in cell.modules())

    assert dropped(convolution) == 8
    assert dropped(enhancement) == 8 - 3  # it has three identities
    with_reducing_skip = evaluation_net(published("bnas_v2_pc_v2"), channels=4, drop_path=0.5)
    assert sum(isinstance(module, StochasticDepth) for module in with_reducing_skip.modules()) == 6 * 8 + 2 * (8 - 4)
    assert not any(isinstance(module, StochasticDepth) for module in evaluation_net(PC_V1, channels=4).modules())


def test_drop_path_drops_whole_samples_while_training() -> None:
    torch.manual_seed(0)
    net: Any = evaluation_net(CLR_V1, channels=4, drop_path=0.1)
    set_drop_path(net, 0.5)
    depths = [module for module in net.modules() if isinstance(module, StochasticDepth)]
    assert {depth.p for depth in depths} == {0.5}
    x = torch.ones(1000, 2, 3, 3)
    y = depths[0].train()(x)
    # kept samples are scaled by 1 / (1 - p)
    assert {tuple(sample.unique().tolist()) for sample in y} == {(0.0,), (2.0,)}
    assert 400 < int((y[:, 0, 0, 0] > 0).sum()) < 600
    assert torch.equal(depths[0].eval()(x), x)


# NNI's own strategies


def evaluator() -> Classification:
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(4, 3, 8, 8, generator=generator), torch.tensor([0, 1, 2, 0]))
    return Classification(
        num_classes=3, train_dataloaders=DataLoader(data, batch_size=2), val_dataloaders=DataLoader(data, batch_size=2),
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip


@pytest.mark.parametrize("strategy", [DARTS, RandomOneShot])
def test_nnis_one_shot_strategies(strategy: type, nni_home: Path) -> None:
    space = BCNN(num_classes=3, channels=4)
    experiment = NasExperiment(space, evaluator(), strategy())
    experiment.config.experiment_working_directory = nni_home
    experiment.run()
    (sample,) = experiment.export_top_models(formatter="dict")
    genotype = Genotype.from_sample(sample, "bcnn")
    assert genotype.to_sample() == sample
    (model,) = experiment.export_top_models(formatter="instance")
    assert model(images()).shape == (2, 3)
    experiment.stop()


def fewest_parameters(model: nn.Module) -> None:
    """An evaluator that wants small networks, and only accepts networks that run."""
    import nni

    assert model(images(8)).shape == (2, 3)
    nni.report_final_result(-float(parameters(model)))


def test_nnis_regularized_evolution(nni_home: Path) -> None:
    space = BCNN(num_classes=3, channels=4)
    strategy = RegularizedEvolution(population_size=3, sample_size=3, mutation_prob=0.3, seed=0)
    config = NasExperimentConfig("sequential", "raw", max_trial_number=8, experiment_working_directory=nni_home)
    experiment = NasExperiment(space, FunctionalEvaluator(fewest_parameters), strategy, config)
    experiment.run()
    (sample,) = experiment.export_top_models(formatter="dict")
    genotype = Genotype.from_sample(sample, "bcnn")
    best = evaluation_net(genotype, num_classes=3, channels=4, deep_cells=0, enhancement_cells=1)
    scores = [individual.y for individual in strategy._population]
    assert -float(parameters(best)) >= max(scores)
    experiment.stop()
