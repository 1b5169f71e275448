"""How the command line talks: mistakes in one sentence, libraries quiet."""

from __future__ import annotations

import logging
import sys
import warnings


def quiet_libraries() -> None:
    """Silence what libraries say about themselves, so that our own lines can be read."""
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|lightning_utilities|nni|torch)\b.*")
    warnings.filterwarnings("ignore", message=".*pkg_resources is deprecated.*")
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger(f"{name}.utilities.rank_zero").setLevel(logging.ERROR)


def complain(error: Exception) -> int:
    """Print what went wrong as one line on standard error; the exit status for a user's mistake."""
    print(f"nni-plugins: {str(error) or type(error).__name__}", file=sys.stderr)
    return 2
