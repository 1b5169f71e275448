"""BatchNorm without its counter, against torch's."""

from __future__ import annotations

import copy

import pytest
import torch
from nni.nas.nn.pytorch import MutableBatchNorm2d
from torch import nn

from nni_plugins import RFDARTS, BNASv2PC, EnTranNAS, PartialChannels, RelativeNAS
from nni_plugins.supernet.batch_norm import UncountedBatchNorm2d, stop_counting
from tests.nni_plugins.methods.searching import OneCell, mutated

COUNTER = "num_batches_tracked"


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("tracks", [True, False])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, MutableBatchNorm2d])
def test_all_but_the_counter_is_as_before(kind: type[nn.BatchNorm2d], tracks: bool, affine: bool) -> None:
    torch.manual_seed(0)
    norm = kind(3, affine=affine, track_running_stats=tracks, momentum=0.3, eps=1e-3).double()
    expected = nn.Sequential(norm)
    actual = copy.deepcopy(expected)
    stop_counting(actual)
    assert isinstance(actual[0], UncountedBatchNorm2d)
    assert list(actual.state_dict()) == list(expected.state_dict())
    for training in (True, True, False):
        x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
        actual.train(training)
        expected.train(training)
        assert torch.equal(actual(x), expected(x))
    for name, value in expected.state_dict().items():
        assert torch.equal(actual.state_dict()[name], torch.tensor(0) if name.endswith(COUNTER) else value)
    with pytest.raises(ValueError, match="4D"):
        actual(x[0])


def test_what_reads_its_count_counts_on() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3, momentum=None), nn.BatchNorm2d(3))
    stop_counting(module)
    for _ in range(2):
        module(torch.randn(2, 3, 4, 4))
    assert [int(module.state_dict()[f"{layer}.{COUNTER}"]) for layer in (0, 1)] == [2, 0]


def test_a_subclass_of_someone_else_stays_as_it_is() -> None:
    class Own(nn.BatchNorm2d):
        pass

    module = nn.Sequential(Own(3))
    stop_counting(module)
    assert type(module[0]) is Own


@pytest.mark.parametrize(
    "strategy",
    [BNASv2PC(channels=PartialChannels(2)), EnTranNAS(), RFDARTS(), RelativeNAS(population_size=2)],
    ids=lambda strategy: type(strategy).__name__,
)
def test_no_batch_norm_of_a_supernet_counts(strategy: BNASv2PC) -> None:
    supernet = mutated(strategy, OneCell)
    before = supernet.state_dict()
    counters = [name for name in before if name.endswith(COUNTER)]
    supernet.train()(torch.randn(2, 1, 6, 6))
    after = supernet.state_dict()
    assert counters
    assert not any(after[name] for name in counters)
    supernet.load_state_dict({name: after[name] + (name in counters) * 7 for name in after})  # of an older version
    assert all(supernet.state_dict()[name] == 7 for name in counters)
