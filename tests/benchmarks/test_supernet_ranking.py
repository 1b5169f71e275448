"""Random cells in supernets, on digits."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from found_versus_random import Comparison, parse
from pieces import Clock
from ranking import Trained
from scipy.stats import kendalltau
from searching import small_images
from supernet_ranking import (
    SupernetRanking,
    between_seeds,
    do_ranking,
    estimates,
    load_trained,
    losses,
    make,
    write_results,
)
from torch.nn.functional import cross_entropy

from nni_plugins.methods.relative_nas.weight_set import WeightSet
from nni_plugins.run.checkpoint import newest_intact
from nni_plugins.run.search import build_search

TINY = [
    *("digits", "--images", "96", "--size", "8", "--random", "4", "--seeds", "1", "--train-seeds", "2"),
    *("--epochs", "1", "--batch", "16"),
]


def comparison_at(output: Path, *strategies: str) -> Comparison:
    arguments = parse([*TINY, "--strategies", *strategies, "--output", str(output)])
    return Comparison(arguments, small_images(arguments))


def note_trained(comparison: Comparison, accuracies: list[list[float]]) -> None:
    """Write down trainings of the random cells, accuracies by cell and seed."""
    for n, (cell, values) in enumerate(zip(comparison.random, accuracies, strict=True)):
        for seed, accuracy in enumerate(values):
            piece = comparison.training_of(f"random_{n}", cell, seed)
            path = comparison.done.file_of(piece.file_name(comparison.data_sha256))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"accuracy": accuracy, "parameters": 1}))


@pytest.mark.parametrize("strategy", ["bnas_v2_pc", "relative_nas"])
def test_the_losses_are_those_of_the_trained_weights(strategy: str, tmp_path: Path) -> None:
    comparison = comparison_at(tmp_path, strategy)
    piece = comparison.search_of(strategy, 0)
    assert piece is not None
    outcome = do_ranking(piece, comparison.random, comparison.data, tmp_path, Clock(tmp_path))
    fresh = build_search(piece.settings, comparison.data)
    before = losses(fresh.supernet, comparison.random, fresh.loaders.validation)
    assert len(set(outcome["losses"])) == len(comparison.random)
    assert all(found != untrained for found, untrained in zip(outcome["losses"], before, strict=True))
    newest = newest_intact(tmp_path / "search")
    assert newest is not None
    written = torch.load(newest, weights_only=False)["state_dict"]
    load_trained(fresh.supernet, tmp_path / "search")
    own = fresh.supernet.state_dict()
    assert len(own) > 50
    assert all(torch.equal(value, written[f"training_module._model.{name}"]) for name, value in own.items())
    assert losses(fresh.supernet, comparison.random, fresh.loaders.validation) == outcome["losses"]

    # an estimate is the cell's own epoch, from the same weights for all; a cell after others says what it says alone
    assert len(outcome["estimates"]) == len(comparison.random)
    data, recipe = (fresh.loaders.weights, fresh.loaders.validation), piece.settings.search
    assert estimates(fresh.supernet, comparison.random[-1:], *data, recipe) == outcome["estimates"][-1:]
    assert all(torch.equal(value, written[f"training_module._model.{name}"]) for name, value in own.items())
    still = dataclasses.replace(recipe, lr=1e-30, lr_min=0.0)
    before = estimates(fresh.supernet, comparison.random, *data, still)
    assert before != outcome["estimates"]
    again = estimates(fresh.supernet, [comparison.random[0]] * 2, *data, still)
    assert again[0] == again[1] == before[0]


def test_an_estimate_is_that_of_a_candidate_of_the_weight_set(tmp_path: Path) -> None:
    comparison = comparison_at(tmp_path, "relative_nas")
    piece = comparison.search_of("relative_nas", 0)
    assert piece is not None
    cell, recipe = comparison.random[1], piece.settings.search
    ours, reference = (build_search(piece.settings, comparison.data) for _ in range(2))
    found = estimates(ours.supernet, [cell], ours.loaders.weights, ours.loaders.validation, recipe)

    net = reference.supernet
    WeightSet(net).choose(cell.to_sample())
    weights = [parameter for parameter in net.parameters() if parameter.requires_grad]
    velocities = [torch.zeros_like(weight) for weight in weights]
    net.train()
    for x, labels in reference.loaders.weights:
        gradients = torch.autograd.grad(cross_entropy(net(x), labels), weights, allow_unused=True)
        norm = sum(float((g**2).sum()) for g in gradients if g is not None) ** 0.5
        for weight, velocity, gradient in zip(weights, velocities, gradients, strict=True):
            if gradient is not None:
                velocity.mul_(0.9).add_(gradient * min(1.0, 5.0 / norm) + recipe.weight_decay * weight.detach())
                weight.data.sub_(recipe.lr * velocity)
    net.eval()
    with torch.no_grad():
        batches = [(cross_entropy(net(x), labels), len(labels)) for x, labels in reference.loaders.validation]
    expected = sum(float(loss) * size for loss, size in batches) / sum(size for _, size in batches)
    assert found == [pytest.approx(expected, rel=1e-5)]


def test_a_supernet_that_says_nothing_is_at_chance(tmp_path: Path) -> None:
    comparison = comparison_at(tmp_path, "bnas_v2_pc")
    piece = comparison.search_of("bnas_v2_pc", 0)
    assert piece is not None
    parts = build_search(piece.settings, comparison.data)
    with torch.no_grad():
        for parameter in parts.supernet.classifier.parameters():
            parameter.zero_()
    found = losses(parts.supernet, comparison.random, parts.loaders.validation)
    assert found == pytest.approx([math.log(10)] * 4, abs=1e-6)


def test_ranks_are_those_of_low_losses_and_high_accuracies(tmp_path: Path) -> None:
    comparison = comparison_at(tmp_path, "bnas_v2_pc")
    note_trained(comparison, [[10.0, 20.0], [30.0, 10.0], [50.0, 60.0], [70.0, 80.0]])
    ranking = SupernetRanking(comparison)
    (found,) = (piece for _, piece in ranking.searches())
    given = [2.0, 1.0, 0.5, 0.7]
    outcome = {"losses": given, "estimates": [0.4, 0.3, 0.2, 0.1], "validation_accuracy": 12.5}
    comparison.done.file_of(ranking.name(found)).write_text(json.dumps(outcome))
    text = write_results(ranking).read_text()
    # of the six pairs of 15, 20, 55, 75 (means over seeds) five are in the order of -2, -1, -0.5, -0.7
    assert "| bnas_v2_pc | 1 | 12.5 | 0.50 to 2.00 | 0.67 |" in text
    assert "| 0.10 to 0.40 | 1.00 |" in text
    assert f"a tau of {kendalltau([10, 30, 50, 70], [20, 10, 60, 80]).statistic:.2f}" in text


def test_one_training_each_says_nothing_of_their_agreement() -> None:
    assert between_seeds([Trained("", 1, (accuracy,)) for accuracy in (1.0, 2.0)]) is None
    assert between_seeds([Trained("", 1, values) for values in ((1.0, 5.0), (2.0, 7.0), (3.0, 6.0))]) == pytest.approx(
        1 / 3
    )


def test_untrained_cells_and_nnis_supernets_are_refused_before_any_search(tmp_path: Path) -> None:
    for strategies, sentence in [
        (
            ["bnas_v2_pc"],
            "4 of 4 random cells are not trained; run found_versus_random.py with the same arguments first.",
        ),
        (["bnas_d", "nni_darts"], "must be our own, not nni_darts, .* give --strategies bnas_d."),
    ]:
        with pytest.raises(ValueError, match=sentence):
            make(parse([*TINY, "--strategies", *strategies, "--output", str(tmp_path)]))
