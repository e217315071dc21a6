"""Load what every `millrace pr` command needs: profile, state store, one common warehouse."""

from __future__ import annotations

from dataclasses import dataclass, replace

from infrastructure.ci.pull_request.names import get_schema
from prefect_flows.core.errors import ConfigurationError
from prefect_flows.core.files import parse_json_file
from prefect_flows.core.prefect_api import load_profile, prefect_client
from prefect_flows.core.profiles import Profile, profile_from_file
from prefect_flows.core.settings import Settings, load_settings
from prefect_flows.state.configured_store import configured_store
from prefect_flows.state.store import StateStore
from prefect_flows.state.target_state import MANIFEST, MANIFEST_KIND, TargetState

# Profile fields that must be equal so that one query can read both targets.
ONE_WAREHOUSE = {"postgres": ("host", "port", "dbname"), "bigquery": ("location", "api_endpoint")}


@dataclass(frozen=True)
class Context:
    """Settings, the target of pull requests and the state store.

    Attributes:
        profile: profile of the target, with the schema from Terraform.
    """

    settings: Settings
    profile: Profile
    store: StateStore

    def get_ci_profile(self, number: int) -> Profile:
        """Return the profile with the CI schema of a pull request."""
        output = {key: value for key, value in self.profile.output.items() if key != "dataset"}
        return replace(self.profile, output=output | {"schema": get_schema(number)})

    def get_target_state(self, production: str) -> TargetState:
        """Return the state of the production target in the state store."""
        return TargetState(self.store, production, self.settings.target_path(production))

    def read_manifest(self, production: str) -> bytes:
        """Return the manifest of production's last successful run.

        Raises:
            ConfigurationError: there is none.
            CorruptFileError: the file is corrupt.
        """
        path = f"{self.get_target_state(production).folder}/{MANIFEST}"
        data = self.store.read(path)
        if data is None:
            raise ConfigurationError(
                f"No whole run of target {production!r} was good yet: there is nothing to compare "
                "with.",
                where=f"{self.store.url}/{path}",
                fix=f"run it: uv run millrace run --target {production}; or "
                "set MILLRACE_STATE_URL to the state store where it is run",
            )
        parse_json_file(
            data,
            MANIFEST_KIND,
            where=f"{self.store.url}/{path}",
            fix=f"write it again: uv run millrace run --target {production}",
        )
        return data


def load_context(target: str, production: str | None, *, prefect: bool) -> Context:
    """Load the context of a `millrace pr` command.

    Args:
        target: target that builds pull requests.
        production: target to compare with; None if nothing is compared.
        prefect: read targets from Prefect blocks instead of `dbt/profiles.yml`.

    Raises:
        ConfigurationError: a target is unknown, or the two are not in one warehouse.
    """
    settings = load_settings()
    names = list(dict.fromkeys([target, *([production] if production else [])]))
    if prefect:
        with prefect_client() as client:
            profiles = {name: load_profile(client, name) for name in names}
            store = configured_store(settings, client)
    else:
        profiles = {
            name: profile_from_file(settings.profiles_file, name, settings.dbt_dir)
            for name in names
        }
        store = StateStore(settings.state_url or settings.default_state_url)
    if production is not None:
        _require_one_warehouse(profiles[target], profiles[production])
    return Context(settings, profiles[target], store)


def _require_one_warehouse(target: Profile, production: Profile) -> None:
    """Check that one query can read both targets.

    Raises:
        ConfigurationError: it cannot.
    """
    keys = ONE_WAREHOUSE.get(target.warehouse, ())
    differing = [key for key in keys if target.output.get(key) != production.output.get(key)]
    if target.warehouse != production.warehouse:
        differing = ["type"]
    if differing:
        details = ", ".join(
            f"{key}: {target.output.get(key)} and {production.output.get(key)}" for key in differing
        )
        raise ConfigurationError(
            f"Targets {target.target!r} and {production.target!r} are not in one warehouse, so "
            f"that what is not built could not be read, and nothing compared ({details}).",
            where="Terraform's outputs, from which setup made the targets",
            fix="give pull requests a target in the warehouse of production, with a user of its "
            "own that may only read there: documentation/pull_requests.md",
        )
