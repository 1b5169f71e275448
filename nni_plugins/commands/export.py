"""``nni-plugins export``: write the ONNX model of trained weights again."""

from __future__ import annotations

import argparse
import os.path
from pathlib import Path

from nni_plugins.commands.arguments import DATA_HELP, FORCE_HELP, OWN_SPACE_HELP, add_data_root
from nni_plugins.commands.finishing import finish
from nni_plugins.data.names import refuse_unknown_data
from nni_plugins.deploy.result_folder import refuse_existing_result

HELP = "write the ONNX model of trained weights again"
PARSER = {
    "description": "From genotype.json and weights.safetensors of a result folder, make a new result folder.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=os.path.expanduser, help="folder of an earlier result")
    parser.add_argument("--out", type=os.path.expanduser, required=True, help="folder to make")
    parser.add_argument("--force", action="store_true", help=FORCE_HELP)
    parser.add_argument("--data", help=f"{DATA_HELP} (default: what the folder's report names)")
    parser.add_argument("--space", help=OWN_SPACE_HELP)
    add_data_root(parser)
    parser.add_argument("--opset", type=int, help="version of ONNX's operator set, 18 or later (default: 20)")
    parser.add_argument(
        "--size", type=int, help="side of the images that the models take, in pixels (default: that of the data)"
    )
    parser.add_argument(
        "--class-names", help="a,b,c in the order of the labels, or a file of one name a line (default: the data's)"
    )


def run(arguments: argparse.Namespace) -> int:
    out = refuse_existing_result(arguments.out, force=arguments.force)
    if arguments.data is not None:
        refuse_unknown_data(arguments.data)
    class_names = _class_names(arguments.class_names)
    from nni_plugins.deploy.export import OPSET
    from nni_plugins.run.pipeline import export_again

    return finish(
        export_again(
            Path(arguments.folder),
            out=out,
            data=arguments.data,
            data_root=arguments.data_root,
            force=arguments.force,
            opset=OPSET if arguments.opset is None else arguments.opset,
            image_size=arguments.size,
            class_names=class_names,
        )
    )


def _class_names(given: str | None) -> tuple[str, ...]:
    """Return the names in a file, or between commas; none at all if none are given."""
    if given is None:
        return ()
    file = Path(given).expanduser()
    try:
        names = file.read_text().splitlines() if file.is_file() else given.split(",")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not a text file; --class-names takes one with a name on each line.") from None
    return tuple(name.strip() for name in names)
