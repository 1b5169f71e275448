"""What commands that train do before and after it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nni_plugins.run.settings import Settings
from nni_plugins.run.values import parse_assignments

if TYPE_CHECKING:
    from nni_plugins.data import ImageSet
    from nni_plugins.run.pipeline import RunResult


def scaled(settings: Settings, data: ImageSet, arguments: argparse.Namespace) -> Settings:
    """Return the settings scaled to a user's own data, and say so; what the command line sets stays."""
    from nni_plugins.run.scaling import scaled_to

    settings, sentence = scaled_to(data, settings, parse_assignments(arguments.set))
    if sentence:
        print(sentence, flush=True)
    return settings


def finish(result: RunResult, *, variants_on: ImageSet | None = None) -> int:
    """Say where the result lies and repeat its deployment check; return the check's exit status.

    Parameters
    ----------
    result
        What the run has left.
    variants_on
        The data set that the variants of the result are to be made and compared on, or None not to.
    """
    from nni_plugins.deploy import check

    print(f"test accuracy {result.report['test_accuracy']:.2f} %, {result.report['parameters']:,} parameters")
    if best := result.report.get("best_of_tests"):
        print(
            f"best of {best['tests']} tests {best['accuracy']:.2f} %, after epoch {best['epoch']}: optimistic, since "
            "it is chosen on the test set"
        )
    print(f"the result lies in {result.folder}; nni-plugins check {result.folder} repeats the check below")
    status = check.main([str(result.folder)])
    if variants_on is not None:
        from nni_plugins.deploy.variants import print_variants
        from nni_plugins.run.variants import QUICK_VARIANTS, VariantSettings, make_variants

        settings = VariantSettings(only=QUICK_VARIANTS)
        print_variants(make_variants(result.folder, variants_on, settings), result.folder)
    return status
