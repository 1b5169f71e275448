"""``nni-plugins latency``: measure the operations of a space, for searches in which latency counts."""

from __future__ import annotations

import argparse
import os.path

from nni_plugins.commands.arguments import add_data
from nni_plugins.data.names import refuse_unknown_data
from nni_plugins.run.settings import Settings
from nni_plugins.run.values import parse_assignments
from nni_plugins.tools.atomic_files import atomic_write, refuse_existing
from search_spaces.image_shapes import stem_of
from search_spaces.registry import built_in_spaces, space_spec

HELP = "measure the operations of a search space on this machine"
PARSER = {
    "description": "Measure a table of operation times with onnxruntime, for evaluation networks of the given data and "
    "net.* sizes. A search takes it as --set latency_table=FILE, and lets latency count with latency_weight and "
    "latency_target.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("space", help=f"{', '.join(built_in_spaces())}, or that of an installed package")
    add_data(parser, default="digits")
    parser.add_argument("--strategy", default="bnas_v2_pc", help="whose network sizes to take (default: %(default)s)")
    parser.add_argument(
        "--networks", type=int, default=8, help="random networks to fit what is fixed to (default: %(default)s)"
    )
    parser.add_argument(
        "--runs", type=int, default=400, help="runs of a network, of which the fastest counts (default: %(default)s)"
    )
    parser.add_argument("--out", type=os.path.expanduser, required=True, help="file to write")
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")


def run(arguments: argparse.Namespace) -> int:
    out = refuse_existing(arguments.out, force=arguments.force)
    for name, least in (("networks", 2), ("runs", 1)):
        if getattr(arguments, name) < least:
            raise ValueError(f"--{name} must be a whole number of at least {least}, got {getattr(arguments, name)}.")
    if arguments.data is not None:
        refuse_unknown_data(arguments.data)
    space_spec(arguments.space)
    overrides, name = parse_assignments(arguments.set), arguments.data or "digits"

    def settings_of(stem: str = "cifar") -> Settings:
        return Settings.of(
            strategy=arguments.strategy,
            space=arguments.space,
            data=name,
            seed=arguments.seed,
            overrides=overrides,
            sections=("net",),
            stem=stem,
        )

    settings_of()  # mistakes come before the data is read
    from nni_plugins.data import load_data
    from nni_plugins.run.latency import measure

    data = load_data(name, root=arguments.data_root, download=arguments.download)
    table = measure(settings_of(stem_of(data.image_size)), data, networks=arguments.networks, runs=arguments.runs)
    atomic_write(out, table.to_json())
    print(
        f"{len(table.times)} operations, fixed {table.fixed_ms:.3f} ms; a typical network {table.typical_ms():.3f} ms"
    )
    print(f"the table lies in {out}; search with --set latency_table={out} --set latency_weight=1")
    return 0
