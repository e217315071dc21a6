"""The pins in pyproject.toml, requirements.lock and what is installed agree. No index is asked."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.project import EXAMPLE, REPOSITORY

KEEP = "fix: .ci/pins --keep"
SYNC = "fix: uv sync --all-packages"
HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}\b", re.MULTILINE)
SYSTEMS = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}
# The Pythons, systems and machines that a marker of a dependency can tell apart.
ENVIRONMENTS = [
    {
        **default_environment(),
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "sys_platform": system,
        "os_name": "nt" if system == "win32" else "posix",
        "platform_system": SYSTEMS[system],
        "platform_machine": machine,
        "implementation_name": implementation.lower(),
        "platform_python_implementation": implementation,
    }
    for python in ["3.11.2", "3.11.4", "3.11.7", "3.12.1", "3.13.0", "3.14.0", "3.15.0"]
    for system, machine, implementation in [
        ("linux", "x86_64", "CPython"),
        ("linux", "aarch64", "CPython"),
        ("linux", "x86_64", "PyPy"),
        ("darwin", "arm64", "CPython"),
        ("win32", "AMD64", "CPython"),
    ]
]


def read_toml(file: Path) -> dict[str, Any]:
    return tomllib.loads(file.read_text())


PROJECT = read_toml(REPOSITORY / "pyproject.toml")
UV = PROJECT["tool"]["uv"]


def name_of(requirement: Requirement) -> str:
    return canonicalize_name(requirement.name)


def parse(lines: Iterable[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines]


@cache
def pins(key: str = "constraint-dependencies") -> list[Requirement]:
    return [each for each in parse(UV[key]) if str(each.specifier).startswith("==")]


@cache
def locked() -> list[Requirement]:
    text = (REPOSITORY / "requirements.lock").read_text()
    return parse(line.removesuffix(" \\") for line in text.splitlines() if line[0].isalnum())


def applies(requirement: Requirement, environment: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment)


def versions_in(environment: dict[str, str], found: list[Requirement]) -> dict[str, str]:
    return {
        name_of(each): str(each.specifier).removeprefix("==")
        for each in found
        if applies(each, environment)
    }


def pyprojects() -> list[Path]:
    members = [
        file for glob in UV["workspace"]["members"]
        for file in REPOSITORY.glob(f"{glob}/pyproject.toml")
    ]  # fmt: skip
    assert members or not EXAMPLE.exists(), "no source has a pyproject.toml"
    return [REPOSITORY / "pyproject.toml", *members]


def requirements() -> Iterator[tuple[str, Requirement]]:
    """Each dependency that a pyproject.toml names, and what names it."""
    files = {file: read_toml(file) for file in pyprojects()}
    ours = {canonicalize_name(content["project"]["name"]) for content in files.values()}
    ours |= {canonicalize_name(name) for name in UV["exclude-dependencies"]}
    for file, content in files.items():
        project = content["project"]
        lists = [
            project.get("dependencies", []),
            *project.get("optional-dependencies", {}).values(),
            *content.get("dependency-groups", {}).values(),
        ]
        for line in (each for some in lists for each in some if isinstance(each, str)):
            requirement = Requirement(line)
            if name_of(requirement) not in ours:
                yield f"{file.relative_to(REPOSITORY)}: {line}", requirement


def unmet(requirement: Requirement, pinned: dict[str, str]) -> bool:
    version = pinned.get(name_of(requirement))
    return version is None or not requirement.specifier.contains(version, prereleases=True)


def test_the_lock_has_the_versions_of_the_pins() -> None:
    assert len(locked()) > 100
    differing = set()
    for environment in ENVIRONMENTS:
        pinned = versions_in(environment, pins())
        for name, version in versions_in(environment, locked()).items():
            if version != (there := pinned.get(name, "no version")):
                differing.add(f"{name}: {version} in requirements.lock, {there} in the pins")
    assert not differing, "\n".join([*sorted(differing), KEEP])


def test_the_lock_has_hashes_and_names_no_host() -> None:
    text = (REPOSITORY / "requirements.lock").read_text()
    assert "://" not in text, KEEP
    entries = re.split(r"\n(?=[a-z0-9])", text.rstrip("\n"))
    without = [entry for entry in entries if not HASH.search(entry)]
    assert not without, "\n".join([*without, KEEP])


def test_each_dependency_has_a_pin_within_its_bound() -> None:
    pinned = [(environment, versions_in(environment, pins())) for environment in ENVIRONMENTS]
    wrong = {
        place
        for place, requirement in requirements()
        for environment, versions in pinned
        if applies(requirement, environment) and unmet(requirement, versions)
    }
    assert not wrong, "\n".join([
        "No pin, or one outside the bound:", *sorted(wrong), KEEP,
        "fix: .ci/pins --only NAME, if its bound is new",
    ])  # fmt: skip


def test_the_lock_has_each_dependency_of_an_image() -> None:
    lock = [(environment, versions_in(environment, locked())) for environment in ENVIRONMENTS]
    missing = {
        name_of(requirement)
        for file in pyprojects()
        for requirement in parse(read_toml(file)["project"].get("dependencies", []))
        for environment, versions in lock
        if not name_of(requirement).startswith("millrace")
        and applies(requirement, environment) and name_of(requirement) not in versions
    }  # fmt: skip
    assert not missing, "\n".join([*sorted(missing), KEEP])


def test_a_bound_that_is_written_by_hand_holds() -> None:
    by_hand = [each for each in parse(UV["constraint-dependencies"]) if each not in pins()]
    for environment in ENVIRONMENTS:
        versions = versions_in(environment, pins())
        broken = [str(each) for each in by_hand if unmet(each, versions)]
        assert not broken, "\n".join([*broken, "fix: .ci/pins --only NAME, or remove the bound"])


def test_the_build_backend_is_pinned() -> None:
    versions = versions_in(dict(default_environment()), pins("build-constraint-dependencies"))
    wrong = [
        str(each) for each in parse(PROJECT["build-system"]["requires"]) if unmet(each, versions)
    ]
    assert not wrong, "\n".join([*wrong, KEEP])


def test_what_is_installed_has_the_versions_of_the_pins() -> None:
    """Finds an environment that is stale, and a pin that uv ignores."""
    differing = {}
    for name, pinned in versions_in(dict(default_environment()), pins()).items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # it belongs to an extra, group or source that is not installed
        if Version(installed) != Version(pinned):
            differing[name] = f"{name}: {installed} is installed, {pinned} is pinned"
    assert not differing, "\n".join([*sorted(differing.values()), SYNC])
