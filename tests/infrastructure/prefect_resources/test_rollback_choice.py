"""Which release a rollback goes to."""

from __future__ import annotations

import pytest

from infrastructure.prefect_resources.deployments.releases import DEPLOYED, Release
from infrastructure.prefect_resources.rollback.command import _choose
from infrastructure.prefect_resources.rollback.verify import run_health_check
from prefect_flows.core.errors import ConfigurationError


def known(*history: str) -> list[Release]:
    """Releases, the current one first: `a` was deployed, `<a` was rolled back to."""
    return [
        Release("dev", name.removeprefix("<"), None, "rolled back" if "<" in name else DEPLOYED, ())
        for name in history
    ]


@pytest.mark.parametrize(
    ("history", "chosen"),
    [
        (["c", "b", "a"], "b"),
        (["c", "c", "b"], "b"),
        (["<b", "c", "b", "a"], "a"),
        (["<a", "<b", "c", "b", "a", "0"], "0"),
        (["d", "<b", "c", "b", "a"], "c"),
    ],
    ids=["before", "deployed twice", "after a rollback", "after two rollbacks", "deployed since"],
)
def test_it_goes_to_the_version_deployed_before(history: list[str], chosen: str) -> None:
    current, found = _choose(known(*history), "dev", None)
    assert current.version == history[0].removeprefix("<")
    assert found.version == chosen


def test_it_goes_to_the_version_that_is_named() -> None:
    assert _choose(known("c", "b", "a"), "dev", "a")[1].version == "a"


@pytest.mark.parametrize("to", [None, "a", "b"], ids=["nothing before", "itself", "unknown"])
def test_it_refuses_where_there_is_nothing_to_go_to(to: str | None) -> None:
    with pytest.raises(ConfigurationError, match="no release"):
        _choose(known("a"), "dev", to)


def test_a_failed_check_is_read_as_the_health_check_prints_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the real command, whose JSON no type checker compares with what reads it."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    found = run_health_check("dev")
    assert list(found) == ["api"]
    assert found["api"].startswith("api: The Prefect API does not answer: ")
    assert "; start it: uv run millrace up" in found["api"]
