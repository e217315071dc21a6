"""What an image is built from, and what a release refuses; the engine is in tests/containers."""

from __future__ import annotations

import json
import stat
import subprocess
from pathlib import Path

import pytest

from infrastructure.delivery.build_image import (
    GitState,
    build_command,
    build_source_command,
    export_context,
    parse_base_images,
    read_git_state,
    require_dockerfile,
    require_reproducible,
)
from infrastructure.platforms.docker.parse_project import build_profiles
from infrastructure.source_images import get_source_image
from prefect_flows.core.errors import ConfigurationError
from tests.support.project import REPOSITORY

DIGEST = "@sha256:" + "0" * 64
PINNED = {"PYTHON_IMAGE": "python:3.11" + DIGEST, "UV_IMAGE": "uv:1" + DIGEST}
CLEAN = GitState("a" * 40, "2026-11-21T10:00:00+00:00", "", dirty=False)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    folder.mkdir()
    (folder / "kept.txt").write_text("as committed")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    for arguments in (
        ["init", "--quiet"],
        ["add", "--all"],
        [*identity, "commit", "--quiet", "--message", "first"],
        ["remote", "add", "origin", "https://user:token@example.com/millrace.git"],
    ):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


def test_the_version_is_the_commit(clone: Path) -> None:
    code = read_git_state(clone)
    assert code.version == code.commit[:12]
    assert not code.dirty


def test_a_label_carries_no_token(clone: Path) -> None:
    assert read_git_state(clone).source == "https://example.com/millrace.git"


def test_a_file_that_git_does_not_know_makes_it_dirty(clone: Path) -> None:
    (clone / "new.txt").write_text("")
    code = read_git_state(clone)
    assert code.version == code.commit[:12] + "-dirty"
    with export_context(clone, code) as context:
        assert context == clone


def test_the_context_is_the_commit_alone(clone: Path) -> None:
    with export_context(clone, read_git_state(clone)) as context:
        assert [file.name for file in context.iterdir()] == ["kept.txt"]
        assert stat.filemode((context / "kept.txt").stat().st_mode) == "-rw-r--r--"


def test_a_release_refuses_what_is_not_committed() -> None:
    with pytest.raises(ConfigurationError) as refused:
        require_reproducible(GitState("a" * 40, "", "", dirty=True), PINNED)
    assert "files of this folder differ" in refused.value.what
    assert "git stash --include-untracked" in refused.value.fix


def test_a_release_refuses_bases_without_a_digest_and_says_how_to_find_it() -> None:
    bases = PINNED | {"UV_IMAGE": "astral/uv:0.13.8"}
    with pytest.raises(ConfigurationError) as refused:
        require_reproducible(CLEAN, bases)
    assert refused.value.what == (
        "A release names its base images by digest: UV_IMAGE=astral/uv:0.13.8."
    )
    assert "docker buildx imagetools inspect astral/uv:0.13.8" in refused.value.fix
    assert "--uv-image astral/uv:0.13.8@sha256:" in refused.value.fix
    require_reproducible(CLEAN, PINNED)


def test_the_dockerfile_names_both_bases() -> None:
    bases = parse_base_images((REPOSITORY / "Dockerfile").read_text())
    assert set(bases) == set(PINNED)
    line = build_command(Path("context"), "millrace:x", CLEAN, bases, {})
    assert line[:4] == ["docker", "build", "--tag", "millrace:x"]
    assert "MILLRACE_VERSION=" + "a" * 12 in line
    assert "CREATED=2026-11-21T10:00:00+00:00" in line
    assert line[-1] == "context"


@pytest.mark.parametrize(
    ("image", "source", "own"),
    [
        ("millrace:1a2b", "nyc__flights", "millrace-nyc-flights:1a2b"),
        ("localhost:5000/m:1a2b-dirty", "a_b__c_2", "localhost:5000/m-a-b-c-2:1a2b-dirty"),
    ],
)
def test_a_sources_image_is_named_beside_the_projects(image: str, source: str, own: str) -> None:
    assert get_source_image(image, source) == own


@pytest.mark.parametrize("image", ["millrace", "localhost:5000/millrace", "millrace" + DIGEST])
def test_without_a_version_there_is_nothing_to_share(image: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        get_source_image(image, "nyc__flights")
    assert f"named after {image!r}, which has no tag" in refused.value.what
    assert refused.value.fix == "name the project's image by its version, NAME:VERSION"


def test_a_sources_image_stands_on_the_projects() -> None:
    line = build_source_command(Path("context"), "r.example.com/millrace:x", "nyc__flights")
    assert line[:4] == ["docker", "build", "--tag", "r.example.com/millrace-nyc-flights:x"]
    assert "BASE_IMAGE=r.example.com/millrace:x" in line
    assert "org.opencontainers.image.title=millrace-nyc-flights" in line
    assert line[-1] == "context/prefect_flows/sources/nyc__flights"


@pytest.mark.example
def test_a_source_without_a_dockerfile() -> None:
    with pytest.raises(ConfigurationError) as refused:
        require_dockerfile(REPOSITORY, "nyc__ferries")
    assert "Source 'nyc__ferries' has no Dockerfile; there are those of: " in refused.value.what
    assert "nyc__flights" in refused.value.what


def test_outputs_with_secrets_are_refused() -> None:
    target = {
        "type": "postgres", "host": "db", "port": 5432, "database": "d", "user": "u",
        "schema": "s", "threads": 1,
    }  # fmt: skip
    document = {
        "dbt_targets": {"value": {"prod": target}},
        "dbt_target_secrets": {"value": {"prod": {"password": "hunter2"}}},
    }
    with pytest.raises(ConfigurationError) as refused:
        build_profiles(json.dumps(document), REPOSITORY / "dbt")
    assert "dbt_target_secrets of prod" in refused.value.where
    assert "jq 'del(.dbt_target_secrets)'" in refused.value.fix
    assert "hunter2" not in str(refused.value)
    document.pop("dbt_target_secrets")
    (profile,) = build_profiles(json.dumps(document), REPOSITORY / "dbt")
    assert (profile.target, profile.output["host"]) == ("prod", "db")
