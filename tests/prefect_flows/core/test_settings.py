"""Every setting has bounds, within which a run can use it."""

from __future__ import annotations

import types
import typing
from datetime import UTC, datetime
from pathlib import Path

import annotated_types
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from prefect_flows.core.environment import set_variables
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.settings import PREFIX, Settings, load_settings
from prefect_flows.state.runs import Run, RunHeader, prune
from prefect_flows.state.store import StateStore


def numbers(model: type[BaseModel], path: tuple[str, ...] = ()) -> dict[str, FieldInfo]:
    """Name of the variable → each setting that is a number, those of the stages included."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= numbers(kind, (*path, name))
        elif {int, float} & set(kinds):
            found[PREFIX + "__".join((*path, name)).upper()] = field
    return found


NUMBERS = numbers(Settings)


def bounds(field: FieldInfo) -> tuple[float, float | None]:
    """Least and greatest value; without the second, whatever is finite."""
    (least,) = [
        each.ge if isinstance(each, annotated_types.Ge) else each.gt
        for each in field.metadata
        if isinstance(each, annotated_types.Ge | annotated_types.Gt)
    ]
    greatest = [each.le for each in field.metadata if isinstance(each, annotated_types.Le)]
    return float(least), float(greatest[0]) if greatest else None  # type: ignore[arg-type]


def refused(variable: str, value: str) -> bool:
    """Whether it is, in words that name the variable."""
    said = None
    with set_variables({variable: value}):
        try:
            load_settings()
        except ConfigurationError as error:
            said = str(error)
    return said is not None and variable in said


def test_there_are_as_many_as_one_would_think() -> None:
    assert {"MILLRACE_KEEP_DAYS", "MILLRACE_STAGES__DBT_RUN__TIMEOUT_SECONDS"} < NUMBERS.keys()
    assert len(NUMBERS) > 30


@pytest.mark.parametrize("variable", NUMBERS)
def test_what_is_infinite_no_number_or_out_of_bounds_is_refused(variable: str) -> None:
    least, greatest = bounds(NUMBERS[variable])
    for value in ("inf", "-inf", "nan", "", "many", str(least - 1)):
        assert refused(variable, value), value
    if greatest is None:
        assert variable == "MILLRACE_PRICE_PER_TIB", "money alone has no greatest amount"
        return
    assert refused(variable, str(int(greatest) + 1))
    assert not refused(variable, str(int(greatest))), "a bound is within"


def test_a_run_is_kept_with_the_greatest_of_all_values(tmp_path: Path) -> None:
    greatest = {name: bounds(field)[1] for name, field in NUMBERS.items()}
    with set_variables({n: str(int(v)) for n, v in greatest.items() if v is not None}):
        settings = load_settings()
    store = StateStore(str(tmp_path))
    for name in ("a", "b"):
        header = RunHeader(
            id=name, target="dev", parameters={}, url=None, started_at=datetime.now(UTC)
        )
        Run(store, header).begin(None, [])
    assert prune(store, "dev", keep=settings.keep_runs, keep_days=settings.keep_days) == []
    assert max(settings.stages.dbt_run.delays()) == 600


@pytest.mark.parametrize(
    "variable", [PREFIX + name.upper() for name in Settings.model_fields if name != "project_dir"]
)
def test_what_a_variable_gives_that_was_not_set_is_refused(variable: str) -> None:
    assert refused(variable, "")


def test_settings_of_all_clones_come_from_a_file_and_variables_override_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "millrace.toml").write_text(
        'mart_folders = ["reporting"]\nprofiles_dir = ".local"\nkeep_runs = 5\n'
    )
    with set_variables({"MILLRACE_PROJECT_DIR": str(tmp_path), "MILLRACE_KEEP_RUNS": "7"}):
        settings = load_settings()
    assert (settings.mart_folders, settings.keep_runs) == (["reporting"], 7)
    assert settings.profiles_file == tmp_path / ".local" / "profiles.yml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mart_folder = []", "Unknown settings: mart_folder."),
        ("mart_folders = [", "millrace.toml cannot be read: "),
        ('keep_runs = "many"', "MILLRACE_KEEP_RUNS: "),
    ],
)
def test_a_file_of_settings_that_is_wrong_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "millrace.toml").write_text(text)
    with (
        set_variables({"MILLRACE_PROJECT_DIR": str(tmp_path)}),
        pytest.raises(ConfigurationError) as error,
    ):
        load_settings()
    assert message in str(error.value)
    assert "millrace.toml" in error.value.where
