"""The context of a flow: settings, the target's dbt profile, state store and Prefect runtime."""

from __future__ import annotations

from dataclasses import dataclass

from prefect_flows.core.bounded_waits import limit_api_retries
from prefect_flows.core.code_version import refuse_missing_version
from prefect_flows.core.notification_preferences import load_preferences
from prefect_flows.core.prefect_api import load_profile, prefect_client
from prefect_flows.core.profiles import Profile
from prefect_flows.core.projects import load_projects
from prefect_flows.core.settings import Settings, load_settings
from prefect_flows.notifications.startup_failure import notify_on_startup_failure
from prefect_flows.runtime.parameters import Parameters
from prefect_flows.runtime.prefect_runtime import PrefectRuntime
from prefect_flows.state.configured_store import configured_store
from prefect_flows.state.store import StateStore


@dataclass(frozen=True)
class FlowContext:
    """What a flow needs before it starts."""

    settings: Settings
    profile: Profile
    store: StateStore
    runtime: PrefectRuntime


def get_flow_context(parameters: Parameters) -> FlowContext:
    """Load settings, profile, state store and runtime for the current flow run.

    If the profile cannot be loaded, the owners of the target are notified. Errors before that
    (settings, Prefect API, notification preferences) cannot be notified.

    Raises:
        ConfigurationError: a setting, or a variable or a block that setup writes, is wrong; or the
            target, or the version of the deployment, is not one of this folder.
        PrefectUnreachable: the Prefect API does not answer, or refuses.
    """
    settings = load_settings()
    patience = limit_api_retries(settings.unreachable_seconds)
    with prefect_client() as client:
        store = configured_store(settings, client)
        preferences = load_preferences(client, parameters.target)
        runtime = PrefectRuntime.from_flow_run_context(parameters.target, preferences, patience)
        with notify_on_startup_failure(parameters, store, runtime, settings.notify_seconds):
            profile = load_profile(client, parameters.target, load_projects(settings))
            refuse_missing_version(settings, runtime.deployment_version)
    return FlowContext(settings, profile, store, runtime)
