"""The checks of `millrace health`: run each query, and turn errors into failed checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx

from infrastructure.operate.health_check import api_queries, external_checks
from infrastructure.operate.health_check.automation_checks import evaluate_automations
from infrastructure.operate.health_check.check_result import Check, Status
from infrastructure.operate.health_check.evaluate import (
    evaluate_deployments,
    evaluate_pool,
    evaluate_server,
)
from infrastructure.operate.health_check.evaluate_runs import (
    evaluate_last_run,
    evaluate_running_runs,
    evaluate_waiting_runs,
)
from infrastructure.prefect_resources.automations.desired_automations import COMMAND as AUTOMATIONS
from prefect_flows.core.errors import (
    ConfigurationError,
    MillraceError,
    PrefectUnreachable,
    did_you_mean,
)
from prefect_flows.core.names import LOCAL_UP_COMMAND, SETUP_COMMAND
from prefect_flows.core.prefect_api import list_targets, load_profile
from prefect_flows.core.settings import Settings
from prefect_flows.state.configured_store import configured_store

START_SERVER = (
    f"start it: {LOCAL_UP_COMMAND}, docker compose up -d --wait, or its unit; "
    "or correct PREFECT_API_URL, which ends in /api"
)


class Checks:
    """The checks of one run; run `api` first, since it finds the targets to check.

    Args:
        settings: settings of the project.
        named: targets to check; None for all that have a profile block.
    """

    def __init__(self, settings: Settings, targets: Sequence[str] | None) -> None:
        self._settings = settings
        self._named = list(dict.fromkeys(targets or []))
        self.targets: list[str] = list(self._named)
        # Masked in all output, in case the error of a library contains one.
        self.secrets = _get_client_secrets()

    def api(self, seconds: float) -> list[Check]:
        """Check that the API responds, accepts the credentials, and has a compatible version."""
        try:
            with api_queries.open_client(seconds / 2) as client:
                server = api_queries.read_server(client)
                existing = list_targets(client)
        except PrefectUnreachable as error:
            return [self._unreachable_check(error)]
        except (httpx.HTTPError, ValueError) as error:
            seen = f"the URL is not a Prefect API: {type(error).__name__}: {error}"
            return [Check("api", "", Status.FAILED, seen, START_SERVER)]
        checks = [evaluate_server(server)]
        if not self._named:
            self.targets = existing
        missing = [name for name in self.targets if name not in existing]
        for name in missing:
            known = f"; targets that exist: {', '.join(existing)}" if existing else ""
            fix = f"{SETUP_COMMAND} --target {name}"
            seen = f"no profile block{known}{did_you_mean(name, existing)}"
            checks.append(Check("blocks", name, Status.FAILED, seen, fix))
        if not self.targets:
            seen = "setup has made no target's blocks"
            checks.append(Check("blocks", "", Status.WARNING, seen, SETUP_COMMAND))
        self.targets = [name for name in self.targets if name in existing]
        return checks

    def _unreachable_check(self, error: PrefectUnreachable) -> Check:
        status = getattr(getattr(error.__cause__, "response", None), "status_code", None)
        if status not in (401, 403):
            return Check("api", "", Status.FAILED, f"{error.what} ({error.where})", START_SERVER)
        sent = "nothing"
        for name in ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY"):
            if _get_credential(name):
                sent = name
                break
        return Check(
            "api", "", Status.FAILED, f"{error.what} Sent as credentials: {sent}.",
            "set PREFECT_API_AUTH_STRING to what the server has as PREFECT_SERVER_API_AUTH_STRING; "
            "for Prefect Cloud, PREFECT_API_KEY; for the local server of this folder, unset both",
        )  # fmt: skip

    def database(self, seconds: float) -> list[Check]:
        """Check that the server can read its database.

        `/ready` only opens a connection, which for SQLite proves little, so runs are counted.
        """
        with _errors_as_checks(
            "database", "", "see the server's log, and that its database runs"
        ) as checks:
            with api_queries.open_client(seconds) as client:
                client.request("GET", "/ready")
                runs = client.count_flow_runs()
            checks.append(Check("database", "", Status.OK, f"answers; {runs} flow runs in it"))
        return checks

    def runs(self, seconds: float) -> list[Check]:
        """Check work pools, workers, deployments and runs of the targets."""
        with _errors_as_checks("runs", "", START_SERVER) as checks:
            with api_queries.open_client(seconds) as client:
                facts = api_queries.read_api_state(client, self.targets)
            if not facts.pools:
                seen = "no deployment of these targets names a work pool"
                checks.extend(Check(n, "", Status.SKIPPED, seen) for n in ("pool", "worker"))
            for pool in facts.pools:
                checks.extend(evaluate_pool(pool, facts))
            for target in facts.targets:
                checks.extend(evaluate_deployments(target, facts))
                checks.extend(evaluate_last_run(target, facts))
                checks.extend(evaluate_waiting_runs(target, facts))
                checks.append(evaluate_running_runs(target, facts))
        return checks

    def automations(self, seconds: float) -> list[Check]:
        """Check that the automations are as their file defines them."""
        with (
            _errors_as_checks("automations", "", AUTOMATIONS) as checks,
            api_queries.open_client(seconds) as client,
        ):
            checks.extend(evaluate_automations(client, self.targets))
        return checks

    def warehouse(self, target: str, seconds: float) -> list[Check]:
        """Check that dbt can connect to the warehouse of a target."""
        with _errors_as_checks("warehouse", target, f"{SETUP_COMMAND} --target {target}") as checks:
            with api_queries.open_client(seconds) as client:
                profile = load_profile(client, target)
            self.secrets |= set(profile.secrets.values())
            # Time out before the check as a whole does, to report the cause.
            checks.append(external_checks.check_warehouse(profile, seconds * 0.8))
        return checks

    def state_store(self, seconds: float) -> list[Check]:
        """Check that the state store responds, and list unsent notifications."""
        with _errors_as_checks("state store", "", "") as checks:
            with api_queries.open_client(seconds) as client:
                store = configured_store(self._settings, client)
            checks.extend(external_checks.check_state_store(store, self.targets))
        return checks

    def disk(self, seconds: float) -> list[Check]:  # noqa: ARG002 # as the others
        """Check that this machine has free disk space."""
        return [external_checks.check_disk(self._settings.local_dir)]

    def list_skipped(self) -> list[Check]:
        """Return skipped checks for everything that needs the API."""
        seen = "the API has to answer first"
        names = ("database", "pool", "worker", "deployment", "last run", "late runs", "stuck runs",
                 "running", "warehouse", "state store", "notices")  # fmt: skip
        return [Check(name, "", Status.SKIPPED, seen) for name in names]


@contextmanager
def _errors_as_checks(name: str, subject: str, fix: str) -> Iterator[list[Check]]:
    """Collect checks; an error of the project or of HTTP becomes a failed check."""
    checks: list[Check] = []
    try:
        yield checks
    except ConfigurationError as error:
        checks.append(Check(name, subject, Status.FAILED, error.what, error.fix))
    except MillraceError as error:
        checks.append(
            Check(name, subject, Status.FAILED, f"{error.what} ({error.where})", error.fix)
        )
    except httpx.HTTPError as error:
        seen = f"the API does not answer: {type(error).__name__}: {error}"
        checks.append(Check(name, subject, Status.FAILED, seen, fix))


def _get_credential(name: str) -> str | None:
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY

    setting = {
        "PREFECT_API_AUTH_STRING": PREFECT_API_AUTH_STRING,
        "PREFECT_API_KEY": PREFECT_API_KEY,
    }
    value = setting[name].value()
    return None if value is None else str(getattr(value, "get_secret_value", lambda: value)())


def _get_client_secrets() -> set[str]:
    auth, key = _get_credential("PREFECT_API_AUTH_STRING"), _get_credential("PREFECT_API_KEY")
    password = auth.partition(":")[2] if auth else None
    return {secret for secret in (auth, password, key) if secret}
