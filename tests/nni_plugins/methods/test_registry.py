"""What methods declare: names, defaults and the README follow from it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import nni_plugins
from nni_plugins.methods.registry import method_spec, method_specs, public_names
from nni_plugins.run.recipes import RetrainRecipe, SearchRecipe
from nni_plugins.run.settings import Settings, published
from search_spaces.registry import space_names

ROOT = Path(__file__).parents[3]
NAMES = (
    "bnas_d", "bnas_v2_clr", "bnas_v2_pc", "darts", "darts_second_order", "pc_darts", "rf_darts", "rf_pcdarts",
    "entrannas", "entrannas_dst", "relative_nas",
)  # fmt: skip


def test_every_method_is_found_by_being_there() -> None:
    assert set(method_specs()) == set(NAMES)
    for name, spec in method_specs().items():
        assert spec.name == name and method_spec(name) is spec
        assert spec.papers and all(re.fullmatch(r"\d{4}\.\d{5}", paper) for paper in spec.papers)


def test_what_a_spec_says_is_valid_on_every_space_it_is_for() -> None:
    for spec in method_specs().values():
        assert spec.spaces, spec.name
        for space in spec.spaces:
            assert space in space_names()
            for data in ("cifar10", "digits"):
                settings = Settings.of(strategy=spec.name, space=space, data=data)
                assert settings.make_strategy().setting_names() == list(vars(settings.make_strategy().choices))


@pytest.mark.parametrize(
    ("strategy", "space", "search", "retrain"),
    [
        ("bnas_d", "bcnn", (50, 256, 0.1, 0.0), (600, 128, 0.3, 0.0)),
        ("bnas_v2_clr", "bcnn", (50, 256, 0.1, 0.0), (600, 128, 0.3, 0.0)),
        ("bnas_v2_pc", "bcnn", (50, 512, 0.2, 0.0), (600, 128, 0.3, 0.0)),
        ("darts", "darts", (50, 64, 0.025, 0.001), (600, 96, 0.2, 0.4)),
        ("darts_second_order", "darts", (50, 64, 0.025, 0.001), (600, 96, 0.2, 0.4)),
        ("pc_darts", "darts", (50, 256, 0.1, 0.0), (600, 96, 0.3, 0.4)),
        ("rf_darts", "darts", (50, 64, 0.025, 0.001), (600, 96, 0.2, 0.4)),
        ("rf_pcdarts", "darts", (50, 256, 0.1, 0.0), (600, 96, 0.3, 0.4)),
        ("rf_darts", "nasbench201", (50, 64, 0.025, 0.001), (200, 256, 0.0, 0.0)),
        ("entrannas", "darts", (50, 256, 0.1, 0.001), (600, 96, 0.2, 0.4)),
        ("entrannas_dst", "darts_any", (50, 256, 0.1, 0.001), (600, 96, 0.2, 0.4)),
        ("relative_nas", "darts", (50, 256, 0.1, 0.001), (600, 128, 0.3, 0.4)),
    ],
)
def test_published_settings_on_cifar10(
    strategy: str, space: str, search: tuple[float, ...], retrain: tuple[float, ...]
) -> None:
    settings = Settings.of(strategy=strategy, space=space, data="cifar10")
    found = settings.search
    assert (found.epochs, found.batch_size, found.lr, found.lr_min) == search
    train = settings.retrain
    assert (train.epochs, train.batch_size, train.drop_path, train.auxiliary_weight) == retrain


def test_no_published_search_rests_on_a_default() -> None:
    for spec in method_specs().values():
        assert {"epochs", "batch_size", "lr", "lr_min", "weight_decay"} <= set(spec.search), spec.name


def test_layers_are_made_of_known_settings() -> None:
    for spec in method_specs().values():
        for space in space_names():
            for quick in (False, True):
                sections = published(spec, space, quick=quick)
                assert set(sections["search"]) <= set(SearchRecipe.names())
                assert set(sections["retrain"]) <= set(RetrainRecipe.names())


def test_public_names_are_those_that_type_checkers_see() -> None:
    assert sorted(public_names()) == sorted(nni_plugins.__all__)
    source = Path(nni_plugins.__file__).read_text()
    typed = re.findall(r"^    from [\w.]+ import (.*)$", source.split("__all__")[0], flags=re.MULTILINE)
    assert sorted(name for line in typed for name in line.split(", ")) == sorted(nni_plugins.__all__)
    for name in nni_plugins.__all__:
        assert getattr(nni_plugins, name).__name__ == name


def test_every_method_and_every_space_has_its_place_in_the_documents() -> None:
    pages = {page.name: page.read_text() for page in (ROOT / "docs/methods").glob("*.md")}
    presets = [
        name for text in pages.values() for names in re.findall("site: preset (.*) -->", text) for name in names.split()
    ]
    assert sorted(presets) == sorted(method_specs())
    assert "<!-- site: methods -->" in pages["index.md"], "the table of all, made of their declarations"
    families = {f"`{name}`" for name in space_names()} - {"`s2`", "`s3`"}  # between s1 and s4
    assert [name for name in families if name not in pages["index.md"]] == []


@pytest.mark.parametrize("name", ["dart", "", "no name", 3, ["darts"]])
def test_an_unknown_name_lists_the_valid_ones(name: object) -> None:
    with pytest.raises(ValueError, match=r"Unknown strategy .*; expected one of bnas_d, bnas_v2_clr, .*module:Class"):
        method_spec(name)  # type: ignore[arg-type]
