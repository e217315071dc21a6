"""The engine's releases: fetch them, choose one, and find the one that the clone has.

A release is a tag `v1.2.3` of the repository that the clone comes from. They are fetched to
`refs/millrace`, because the team's own versions are tags of the same form.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infrastructure.delivery.release import changelog
from infrastructure.delivery.release.command import PYPROJECT
from infrastructure.delivery.release.version import Version, parse
from prefect_flows.core import git
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.project_folder import SHARED_FILE
from prefect_flows.core.settings import Settings

REFS = "refs/millrace/"
# Each is there while an operation is not finished.
UNFINISHED = {
    "MERGE_HEAD": "merge",
    "REBASE_HEAD": "rebase",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
}


@dataclass(frozen=True)
class Update:
    """A release, and the state of the clone before it.

    Attributes:
        root: folder of the clone.
        version: version of the release.
        head: the clone's commit.
        stand_in: a commit with the files of `head`, whose history has all releases that were
            merged.
        base: commit of the engine that the clone has.
        base_version: version of the engine that the clone has.
    """

    root: Path
    version: Version
    head: str
    stand_in: str
    base: str
    base_version: Version

    @property
    def ref(self) -> str:
        """The release, as git names it in the clone."""
        return REFS + self.version.tag

    @property
    def is_newer(self) -> bool:
        """Whether the clone does not have the release."""
        contained = ["merge-base", "--is-ancestor", self.ref, self.base]
        return self.version >= self.base_version and not git.succeeds(self.root, *contained)

    def read_notes(self) -> str:
        """Return the sections of the release's changelog that are newer than the clone's engine."""
        text = git.run(self.root, "show", f"{self.ref}:{changelog.FILE}")
        sections = changelog.parse_sections(text)
        return "\n\n".join(
            f"## {each.name}\n\n{each.text}"
            for each in sections
            if (version := _parse_tag(each.name)) is not None
            and self.base_version < version <= self.version
        )


def refuse_unready(root: Path) -> None:
    """Refuse a clone in which no commit can be made, or not be undone.

    Raises:
        ConfigurationError: the folder is no clone, git is not finished with something, no branch
            is checked out, or files have uncommitted changes.
        GitError: git does not know who commits.
    """
    git.refuse_no_repository(root)
    for name, operation in UNFINISHED.items():
        if git.succeeds(root, "rev-parse", "--quiet", "--verify", name):
            raise ConfigurationError(
                f"A {operation} is not finished.",
                where=str(root),
                fix=f"finish it, or stop it: git {operation} --abort",
            )
    git.refuse_unclean(root)
    if not git.run(root, "branch", "--show-current").strip():
        raise ConfigurationError(
            "No branch is checked out, so that the update would be on none.",
            where=str(root),
            fix="git switch BRANCH",
        )


def fetch_releases(settings: Settings, url: str | None) -> Mapping[Version, str]:
    """Fetch the releases of the engine's repository; return version → ref.

    Raises:
        ConfigurationError: no repository is known, it does not answer, or has no release.
    """
    root, url = settings.project_dir, url or settings.engine_url
    if url is None:
        raise ConfigurationError(
            "The repository of the engine is not known.",
            where=str(root / SHARED_FILE),
            fix='add a line: engine_url = "GIT-URL"; or give it with --from GIT-URL|REMOTE',
        )
    git.refuse_password(url)
    fetch = ["fetch", "--quiet", "--prune", "--no-tags", "--", url, f"+refs/tags/v*:{REFS}v*"]
    try:
        git.run(root, *git.SLOW, *fetch)
    except git.GitError as error:
        raise ConfigurationError(
            f"The releases of the engine cannot be fetched: {error.what}.",
            where=url,
            fix=f"see that this answers without asking for a password: git ls-remote --tags {url}",
        ) from error
    names = git.run(root, "for-each-ref", "--format=%(refname:strip=2)", REFS).split()
    found = {version: REFS + name for name in names if (version := _parse_tag(name)) is not None}
    if not found:
        raise ConfigurationError(
            "The repository has no release: no tag such as v1.0.0.",
            where=url,
            fix="name the repository of the engine, not your own",
        )
    return found


def _parse_tag(name: str) -> Version | None:
    try:
        return parse(name, where=REFS)
    except ConfigurationError:
        return None


def choose_update(
    settings: Settings, releases: Mapping[Version, str], wanted: str | None
) -> Update:
    """Find what the clone has, and return the update to a release, by default the newest.

    Raises:
        ConfigurationError: there is no such release, or it has no commit in common with the clone.
    """
    root = settings.project_dir
    version = max(releases) if wanted is None else parse(wanted, where="--to")
    if version not in releases:
        raise ConfigurationError(
            f"There is no release {version.tag}; there are: "
            f"{', '.join(each.tag for each in sorted(releases, reverse=True))}.",
            where="--to",
            fix=f"name one of them, or leave --to out for {max(releases).tag}",
        )
    head = git.run(root, "rev-parse", "HEAD").strip()
    if not git.succeeds(root, "merge-base", head, releases[version]):
        raise ConfigurationError(
            f"The release {version.tag} and this clone have no commit in common.",
            where=str(root),
            fix="name the repository that the clone comes from; if git made only a part of the "
            "history (git rev-parse --is-shallow-repository): git fetch --unshallow",
        )
    stand_in = _make_stand_in(settings, releases, head)
    base = git.run(root, "merge-base", stand_in, releases[version]).strip()
    text = git.run(root, "show", f"{base}:{PYPROJECT}")
    has = parse(tomllib.loads(text)["project"]["version"], where=f"{base}:{PYPROJECT}")
    return Update(root, version, head, stand_in, base, has)


def _make_stand_in(settings: Settings, releases: Mapping[Version, str], head: str) -> str:
    """Return a commit from which git finds the releases that are merged already.

    An update is a commit with one parent, so that git does not know the release from it.
    """
    if settings.engine_version is None:
        return head
    root = settings.project_dir
    merged = parse(settings.engine_version, where=SHARED_FILE)
    if merged not in releases:
        raise ConfigurationError(
            f"{SHARED_FILE} says that the clone has the engine {merged}, but there is no such "
            "release.",
            where=str(root / SHARED_FILE),
            fix="name the repository that the engine comes from; or correct engine_version",
        )
    return git.run(
        root, "commit-tree", f"{head}^{{tree}}", "-p", head, "-p", f"{releases[merged]}^{{commit}}",
        "-m", f"Stand in for {head}",
    ).strip()  # fmt: skip
