"""What of docs/how-to/kubernetes.md can be checked without a cluster: the image's recipe and the example's paths."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml
from nni.experiment.config import ExperimentConfig, FrameworkControllerConfig
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[1]
MOUNT = "/tmp/mount"
"""Where NNI's Kubernetes services mount the storage in a pod (CONTAINER_MOUNT_PATH)."""


def test_nni_takes_the_example_for_what_it_is() -> None:
    service = ExperimentConfig.load(ROOT / "examples" / "bnas_v2_kubernetes.yml").canonical_copy().training_service
    assert isinstance(service, FrameworkControllerConfig) and service.reuse_mode
    (role,) = service.task_roles
    assert role.command == service.trial_command
    assert role.gpu_number == service.trial_gpu_number == 1
    assert role.task_number == 1, "a search is one process"


def test_a_pod_of_the_example_leaves_nothing_behind_that_ends_with_it() -> None:
    words = shlex.split(yaml.safe_load((ROOT / "examples" / "bnas_v2_kubernetes.yml").read_text())["trialCommand"])
    for option in ("--data-root", "--exported"):
        assert words[words.index(option) + 1].startswith(f"{MOUNT}/")


def test_the_image_is_made_of_what_is_here() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    copied = [source for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE) for source in line.split()]
    assert "constraints.txt" in copied
    assert all((ROOT / source).exists() for source in copied)
    (python,) = re.findall(r"^FROM python:([\d.]+)", dockerfile, re.MULTILINE)
    (requires,) = re.findall(r'^requires-python = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert Version(python) in SpecifierSet(requires)
