"""What the pages of this site take from the code, so that no page repeats it by hand.

A page asks for it in a comment, which a reader of the Markdown file does not see:

    <!-- site: docstring PACKAGE.MODULE or PACKAGE.MODULE:NAME -->   its docstring
    <!-- site: modules PACKAGE ... -->       the API of packages, module by module
    <!-- site: commands -->                  every command with its arguments
    <!-- site: settings -->                  every setting
    <!-- site: preset STRATEGY ... -->       what methods set, and what their papers set
    <!-- site: methods -->                   every method
    <!-- site: included FILE -->             a Markdown file of the repository, without its title

Texts are Markdown as MyST reads it.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).parents[1]
REQUEST = re.compile(r"<!-- site: (\w+) ?(.*?) -->")


def expanded(text: str) -> str:
    """Return a page with every request replaced by what it asks for.

    Raises
    ------
    KeyError
        If there is no such request.
    """
    return REQUEST.sub(lambda found: GENERATORS[found[1]](*found[2].split()), text)


def docstring(name: str) -> str:
    """Return the docstring of a module, or of ``module:Name`` with its signature."""
    module, _, member = name.partition(":")
    if not member:
        return _rst(f".. automodule:: {module}\n   :no-members:\n   :no-index:")
    return _rst(f".. autoclass:: {module}.{member}\n   :no-members:\n   :no-index:")


def modules(*packages: str) -> str:
    """Return the API of every module of ``packages``."""
    return "\n\n".join(_module(name) for package in packages for name in module_names(package))


def _module(name: str) -> str:
    # A package whose __init__ is empty is there to be referred to, and has nothing to read.
    title = f"## {name}\n\n" if _source(name).read_text().strip() else ""
    return title + _rst(f".. automodule:: {name}\n   :show-inheritance:")


def _source(module: str) -> Path:
    place = ROOT.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def module_names(package: str) -> Iterator[str]:
    """Yield the modules of a package and of its own packages, or the module alone that ``package`` is."""
    place = ROOT.joinpath(*package.split("."))
    if not place.is_dir():
        yield package
        return
    for path in sorted(place.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def commands() -> str:
    """Return every command of ``nni-plugins`` and that of trials, as their own parsers describe them."""
    from nni_plugins import cli, trial
    from nni_plugins.deploy import check

    whole = cli.build_parser()
    (subparsers,) = (action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    parsers = {**subparsers.choices, "check": check.build_parser()}  # which stands alone, without torch and NNI
    sections = [_command(f"nni-plugins {name}", parser, title=name) for name, parser in parsers.items()]
    return "\n\n".join([*sections, _command("python -m nni_plugins.trial", trial.build_parser(), title="A trial")])


def _command(program: str, parser: argparse.ArgumentParser, *, title: str) -> str:
    parser.prog = program
    formatter = argparse.HelpFormatter(program, width=100)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)
    usage = formatter.format_help().removeprefix("usage: ").strip()
    rows = [
        (_invocation(formatter, action), _escaped(formatter._expand_help(action)))
        for action in parser._actions
        if action.help not in (None, argparse.SUPPRESS) and "--help" not in action.option_strings
    ]
    parts = [f"## {title}", parser.description or "", f"```text\n{usage}\n```", _table(("argument", "meaning"), rows)]
    return "\n\n".join(part for part in [*parts, _escaped(parser.epilog or "")] if part)


def _invocation(formatter: argparse.HelpFormatter, action: argparse.Action) -> str:
    return ", ".join(f"`{part.strip()}`" for part in formatter._format_action_invocation(action).split(", "))


def settings() -> str:
    """Return every setting of the recipes, of strategies and of networks: name, values, default, meaning."""
    from nni_plugins.run.lists import list_settings

    columns = ("`--set`", "values", "default", "meaning")
    sections = []
    for listing in list_settings():
        meanings = setting_meanings(listing.title)
        rows = [
            (f"`{name}`", _escaped(values), f"`{default}`", _escaped(meanings.get(name.removeprefix("retrain."), "")))
            for name, values, default in listing.rows
        ]
        sections.append(f"## {_titled(listing.title)}\n\n{_table(columns, rows)}")
    return "\n\n".join(sections)


def setting_meanings(title: str) -> dict[str, str]:
    """Return what the settings of a list of :func:`nni_plugins.run.lists.list_settings` mean, by name."""
    from nni_plugins.methods.registry import method_spec
    from nni_plugins.run.recipes import RetrainRecipe, SearchRecipe
    from search_spaces.registry import space_spec

    kind, _, rest = title.partition(" ")
    if kind == "search":
        return parameter_meanings(SearchRecipe)
    if kind == "retraining":
        return parameter_meanings(RetrainRecipe)
    if kind == "strategies":
        strategy: Any = method_spec(rest.split(",")[0]).load_strategy()()
        return parameter_meanings(type(strategy.choices))
    network = space_spec(rest.partition(":")[0]).load_network()
    network = getattr(network, "func", network)
    return parameter_meanings(network if isinstance(network, type) else type(network))


def parameter_meanings(kind: type) -> dict[str, str]:
    """Return the meanings of parameters by name, from the numpy docstrings of a class and of those it derives from."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        text = inspect.cleandoc(each.__doc__ or "")
        section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-{3,}$|\Z)", text, re.DOTALL | re.MULTILINE)
        entries = re.findall(r"^(\S[^\n]*)\n((?:[ ]+[^\n]*\n?|\n)+)", section[1] if section else "", re.MULTILINE)
        for names, meaning in entries:
            found |= dict.fromkeys(re.split(r",\s*", names), " ".join(meaning.split()))
    return found


def methods() -> str:
    """Return the table of all methods."""
    from nni_plugins.methods.registry import built_in_specs

    rows = [
        (
            f"`{spec.name}`",
            f"`{_class_of(spec)}`",
            spec.summary,
            ", ".join(f"`{space}`" for space in spec.spaces),
            ", ".join(f"arXiv {paper}" for paper in spec.papers),
        )
        for spec in built_in_specs().values()
    ]
    return _table(("`--strategy`", "class", "what it is", "spaces of its paper", "papers"), rows)


def _class_of(spec: Any) -> str:
    return spec.strategy.rpartition(":")[2] if isinstance(spec.strategy, str) else spec.strategy.__name__


def preset(*strategies: str) -> str:
    """Return what methods set: their parts, and their papers' search and retraining on CIFAR-10; and on digits."""
    from nni_plugins.methods.registry import method_spec
    from nni_plugins.run.settings import published
    from nni_plugins.run.values import plain_value

    columns: dict[str, dict[str, str]] = {}
    for name in strategies:
        spec = method_spec(name)
        space = next(iter(spec.spaces))
        sections = published(spec, space)
        values = dict(spec.load_strategy().preset) | sections["search"]
        values |= {f"retrain.{key}": value for key, value in sections["retrain"].items()}
        columns[name] = {"space of the paper": space}
        columns[name] |= {f"`{key}`": str(plain_value(value)) for key, value in values.items()}
        columns[name] |= {f"`{key}` on digits": str(plain_value(value)) for key, value in spec.quick.items()}
    names = dict.fromkeys(key for values in columns.values() for key in values)
    rows = [(key, *(f"`{values[key]}`" if key in values else "" for values in columns.values())) for key in names]
    return _table(("setting", *(f"`{name}`" for name in strategies)), rows)


def included(path: str) -> str:
    """Return a Markdown file of the repository without its title."""
    return re.sub(r"\A# .*\n+", "", (ROOT / path).read_text()).strip()


def _rst(text: str) -> str:
    return f"```{{eval-rst}}\n{text}\n```"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _titled(text: str) -> str:
    return text[:1].upper() + text[1:]


def _escaped(text: str) -> str:
    """Return plain text, or a piece of a docstring, so that Markdown shows it as it is."""
    text = re.sub(r":\w+:`[~.]*([^`]*)`", lambda role: f"``{role[1].rpartition('.')[2]}``", text)
    parts = re.split(r"(``.*?``)", text)
    return "".join(
        f"`{part.strip('`')}`" if part.startswith("``") else re.sub(r"([*_<>\[\]{}$`])", r"\\\1", part)
        for part in parts
    )


GENERATORS: Mapping[str, Callable[..., str]] = MappingProxyType(
    {
        "commands": commands,
        "docstring": docstring,
        "included": included,
        "methods": methods,
        "modules": modules,
        "preset": preset,
        "settings": settings,
    }
)
