"""How Sphinx builds the site: ``make docs``.

Its source is the repository, so that Markdown files are pages where they lie and links between them lead to the same
place here and on the repository's host. No network is needed; whatever Sphinx warns of fails the build.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, TypeVar

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import search_spaces  # noqa: F401  # isort: skip  before NNI, or its DARTS is left unusable

from generated import expanded

project = "nni-plugins"
author = "The authors of nni-plugins"
release = version = installed_version("nni-plugins")

root_doc = "docs/index"
include_patterns = ["docs/**", "README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
exclude_patterns = ["docs/_build", ".*", "data", "build", "dist", "**/.ipynb_checkpoints"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

highlight_language = "none"  # of literal blocks in docstrings: equations and commands

smartquotes = False  # which would make a dash of the two of an option

html_theme = "furo"
html_title = f"nni-plugins {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_site"]
html_copy_source = False
html_show_copyright = False

myst_enable_extensions = ["html_image"]
myst_heading_anchors = 4

# The notebook is executed by the build, so that what it shows is what the code does now.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 900  # on a machine that is busy with other work
nb_execution_in_temp = True
nb_merge_streams = True

copybutton_exclude = ".linenos, .gp, .go"

# What a package's __init__ imports is documented where it is defined.
autodoc_default_options = {"members": True, "ignore-module-all": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True

# Names of ours that a docstring refers to exist. Those of other packages are not looked up: that takes the network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!nni_plugins\b|search_spaces\b).*"),
    (r"py:class", r".*\._\w+"),  # private bases
]


def expand_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Replace what a page asks of the code; such a page is read anew by every build."""
    text = expanded(source[0])
    if text != source[0]:
        app.env.note_reread()
    source[0] = text


def set_off_equations(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Make a literal block of every indented block that follows a paragraph.

    Docstrings are written to be read in the code, where an indented equation or command needs no further mark.
    """
    text = "\n".join(lines)
    text = re.sub(r"^(\S[^\n]*?):?\n\n(?=[ ]{4}\S)", _before_literal_block, text, flags=re.MULTILINE)
    lines[:] = text.split("\n")


def _before_literal_block(paragraph: re.Match[str]) -> str:
    ends_in_colon = paragraph[0].rstrip().endswith(":")
    return f"{paragraph[1]}::\n\n" if ends_in_colon else f"{paragraph[1]}\n\n::\n\n"


def follow_import(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contents: nodes.TextElement
) -> nodes.Element | None:
    """Resolve a name by which a package offers what one of its modules defines."""
    package, _, name = node["reftarget"].rpartition(".")
    if node.get("refdomain") != "py" or not package.startswith(("nni_plugins", "search_spaces")):
        return None
    try:
        found = getattr(importlib.import_module(package), name)
        if isinstance(found, TypeVar):  # of a signature; it has no page
            return contents
        defined = f"{found.__module__}.{found.__qualname__}"
    except (ImportError, AttributeError):
        return None
    python = env.get_domain("py")
    return python.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], defined, node, contents)


def setup(app: Sphinx) -> None:
    """Connect what the pages need."""
    app.connect("source-read", expand_page)
    app.connect("autodoc-process-docstring", set_off_equations, priority=100)  # before napoleon
    app.connect("missing-reference", follow_import)
