"""``nni-plugins predict``: classes of pictures, with neither torch nor NNI."""

from __future__ import annotations

import argparse
import os.path

from nni_plugins.commands.arguments import add_json
from nni_plugins.tools.atomic_files import strict_json
from nni_plugins.tools.console import complain

HELP = "say what pictures show; needs neither torch nor NNI"
PARSER = {
    "description": "Print the most probable classes of each picture, by standalone.onnx of a result folder. The exit "
    "status is 1 if a picture could not be read; the others are predicted all the same.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=os.path.expanduser, help="result folder of search, retrain or export")
    parser.add_argument("pictures", nargs="+", metavar="IMAGE", type=os.path.expanduser, help="picture file")
    parser.add_argument("--top", type=int, default=3, help="classes of each picture (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="threads of onnxruntime (default: %(default)s)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    for option in ("top", "threads"):
        if getattr(arguments, option) < 1:
            raise ValueError(f"--{option} must be at least 1, got {getattr(arguments, option)}.")
    from nni_plugins.data.pictures import UnreadablePicture
    from nni_plugins.deploy.predict import Predictor

    predictor = Predictor(arguments.folder, threads=arguments.threads)
    status, found = 0, []
    for picture in arguments.pictures:
        try:
            classes = predictor(picture, top=arguments.top)
        except UnreadablePicture as error:
            complain(error)
            status = 1
            found.append({"image": picture, "error": str(error)})
            continue
        if not arguments.json:
            print(f"{picture}: " + ", ".join(f"{each.name} ({each.probability:.1%})" for each in classes), flush=True)
        found.append(
            {
                "image": picture,
                "classes": [
                    {"class": each.number, "name": each.name, "probability": each.probability} for each in classes
                ],
            }
        )
    if arguments.json:
        print(strict_json(found))
    return status
