"""`.ci/image` and `.ci/promote` before a registry: what is built, once, and what is only found.

No registry and no BuildKit can be had where this runs. In the place of `docker` stands a program
that keeps names and digests in a file, and answers in docker's words; `build_image` is real.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import NOT_IN_A_CLONE, REPOSITORY

pytestmark = pytest.mark.ci

DOCKER = """\
import hashlib, json, os, pathlib, sys
words = sys.argv[1:]
file = pathlib.Path(os.environ["REGISTRY"])
registry = json.loads(file.read_text())
def digest(text): return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
def after(option): return next(w for o, w in zip(words, words[1:]) if o == option)
if words[:3] == ["buildx", "imagetools", "inspect"]:
    if os.environ.get("FAULT"):
        sys.exit(os.environ["FAULT"])
    if words[3] not in registry["images"]:
        sys.exit(f"ERROR: {words[3]}: not found")
    print(registry["images"][words[3]])
elif words[:3] == ["buildx", "imagetools", "create"]:
    registry["images"][words[4]] = words[5].split("@")[1]
elif words[0] == "build":
    registry["builds"].append(words)
    if os.environ.get("BUILD_FAILS"):
        file.write_text(json.dumps(registry)); sys.exit("it does not build")
    if "--push" in words:
        made = digest(str(len(registry["builds"])))
        registry["images"][after("--tag")] = made
        metadata = next(w for w in words if w.startswith("--metadata-file=")).split("=", 1)[1]
        pathlib.Path(metadata).write_text(json.dumps({"containerimage.digest": made}))
file.write_text(json.dumps(registry))
"""
BASES = {
    "python:3.11-slim-bookworm": "sha256:" + "a" * 64,
    "astral/uv:0.13.8": "sha256:" + "b" * 64,
}


class Ground:
    """A clone, with a registry that is a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "millrace"
        self.registry = folder / "registry.json"
        self.registry.write_text(json.dumps({"images": BASES, "builds": []}))
        self.output = folder / "output"
        programs = folder / "programs"
        programs.mkdir()
        (programs / "docker.py").write_text(DOCKER)
        self.program(programs / "docker", f'exec {sys.executable} {programs}/docker.py "$@"')
        # Packages are those of this environment, and the code that of the clone.
        self.program(
            programs / "uv",
            f"python={sys.executable}\nshift 2\n"
            '[ "$1" = millrace ] && shift && exec "$python" -m infrastructure.cli "$@"\n'
            'shift\nexec "$python" "$@"',
        )
        self.path = f"{programs}:{os.environ['PATH']}"
        shutil.copytree(REPOSITORY, self.folder, ignore=NOT_IN_A_CLONE)
        # Two sources with images of their own say as much as all of them.
        for file in sorted(self.folder.glob("prefect_flows/sources/*/Dockerfile"))[2:]:
            file.unlink()
        for words in (
            ["init", "-q", "-b", "main"], ["add", "-A"],
            ["-c", "user.name=a", "-c", "user.email=a@b.example", "commit", "-q", "-m", "A"],
        ):  # fmt: skip
            subprocess.run(["git", *words], cwd=self.folder, check=True)
        head = ["git", "rev-parse", "HEAD"]
        self.commit = subprocess.check_output(head, cwd=self.folder, text=True).strip()

    @staticmethod
    def program(file: Path, line: str) -> None:
        file.write_text(f"#!/bin/sh\n{line}\n")
        file.chmod(0o755)

    def run(
        self, script: str, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        self.output.write_text("")
        return subprocess.run(
            [self.folder / ".ci" / script, *arguments],
            cwd=self.folder,
            env=os.environ | {
                "PATH": self.path, "UV_NO_SYNC": "1", "REGISTRY": str(self.registry),
                "GITHUB_OUTPUT": str(self.output), "PYTHONPATH": str(self.folder),
                "MILLRACE_PROJECT_DIR": str(self.folder), **environment,
            },
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    @property
    def builds(self) -> list[list[str]]:
        return json.loads(self.registry.read_text())["builds"]

    @property
    def outputs(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.output.read_text().splitlines())


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("image"))


@pytest.fixture(autouse=True)
def _empty(ground: Ground) -> None:
    ground.registry.write_text(json.dumps({"images": BASES, "builds": []}))


def test_a_commit_is_built_once_and_found_after_that(ground: Ground) -> None:
    done = ground.run("image", "ghcr.io/Owner/Name", "--push")
    assert done.returncode == 0, done.stdout + done.stderr
    name = f"ghcr.io/owner/name:{ground.commit[:12]}"
    image, images = ground.outputs["image"], ground.outputs["images"].split()
    assert image.split("@")[0] == name
    assert images[0] == image
    assert len(images) == len(ground.builds) == 3
    assert len({each.split("@")[1] for each in images}) == len(images)
    first = ground.builds[0]
    for words in ground.builds:
        assert {"--push", "--sbom=true", "--provenance=mode=max"} <= set(words)
    arguments = [word for word in first if word.endswith(tuple(BASES.values()))]
    assert {a.split("=", 1)[1] for a in arguments} == {f"{n}@{d}" for n, d in BASES.items()}
    assert f"REVISION={ground.commit}" in first

    count = len(ground.builds)
    for way in ("--push", "--find"):
        again = ground.run("image", "ghcr.io/owner/name", way)
        assert again.returncode == 0, again.stderr
        assert ground.outputs == {"image": image, "images": " ".join(images)}
        assert len(ground.builds) == count

    tagged = ground.run("promote", "v1.2.3", *images)
    assert tagged.returncode == 0, tagged.stderr
    registry = json.loads(ground.registry.read_text())["images"]
    assert registry["ghcr.io/owner/name:v1.2.3"] == image.split("@")[1]
    assert len([name for name in registry if name.endswith(":v1.2.3")]) == len(images)


def test_without_a_registry_nothing_is_pushed(ground: Ground) -> None:
    done = ground.run("image", "millrace", PYTHON_IMAGE="mirror.example.com/python:3.11")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ground.outputs["image"] == f"millrace:{ground.commit[:12]}"
    assert not any("--push" in words for words in ground.builds)
    assert "PYTHON_IMAGE=mirror.example.com/python:3.11" in ground.builds[0]


def test_what_is_not_there_is_not_built_when_it_is_looked_for(ground: Ground) -> None:
    done = ground.run("image", "ghcr.io/owner/name", "--find")
    assert done.returncode == 1
    assert "is not in the registry" in done.stderr
    assert ground.builds == []
    assert ground.outputs == {}


@pytest.mark.parametrize("fault", ["ERROR: 503 Service Unavailable", "ERROR: dial tcp: timeout"])
def test_an_unreachable_registry_is_not_treated_as_empty(ground: Ground, fault: str) -> None:
    for way in ("--push", "--find"):
        done = ground.run("image", "ghcr.io/owner/name", way, FAULT=fault)
        assert done.returncode != 0
        assert fault in done.stderr
    assert ground.builds == []


def test_a_build_that_fails_ends_it(ground: Ground) -> None:
    for way in ([], ["--push"]):
        done = ground.run("image", "ghcr.io/owner/name", *way, BUILD_FAILS="yes")
        assert done.returncode != 0
        assert "docker build ended with 1" in done.stderr
        assert ground.outputs == {}
    assert len(ground.builds) == 2


def test_a_tag_that_came_out_as_another_image_is_refused(ground: Ground) -> None:
    """As with a manifest that the registry wrote anew."""
    other = Path(ground.path.split(":")[0], "docker.py")
    text = other.read_text()
    other.write_text(text.replace('words[5].split("@")[1]', '"sha256:" + "f" * 64'))
    done = ground.run("promote", "v1", "ghcr.io/o/n:1@sha256:" + "c" * 64)
    other.write_text(text)
    assert done.returncode == 1
    assert "which was scanned and signed" in done.stderr
