"""NNI's ``nnictl``, which gives its manager three seconds to answer, with the patience that a busy machine needs."""

from __future__ import annotations

import functools

from nni.experiment import launcher, rest
from nni.tools.nnictl import nnictl

SECONDS_FOR_THE_MANAGER = 120


def main() -> None:
    """Run ``nnictl`` with the arguments of this process."""
    # Both are looked up when they are used; NNI 3.0 is the last version and offers no setting for them.
    launcher._check_rest_server = functools.partial(launcher._check_rest_server, retry=SECONDS_FOR_THE_MANAGER)
    rest.timeout = SECONDS_FOR_THE_MANAGER
    nnictl.parse_args()


if __name__ == "__main__":
    main()
