"""Hints (`fix:` lines) for warehouse errors: refused connections, credentials, missing IAM roles.

`infrastructure/terraform/gcp` grants the roles that the hints name; see
https://cloud.google.com/bigquery/docs/access-control.
"""

from __future__ import annotations

import psycopg2

from prefect_flows.core.failure_class import (
    FailureClass,
    classify,
    exception_chain,
    get_sqlstate,
    is_google_api_error,
    is_google_auth_error,
)
from prefect_flows.core.names import SETUP_COMMAND
from prefect_flows.core.profiles import Profile


def get_hint(error: BaseException, profile: Profile) -> str:
    """Return what fixes a failed connection to a target's warehouse: a command or an edit."""
    return get_google_hint(error, profile) or _postgres_hint(error) or profile.address_hint


def _postgres_hint(error: BaseException) -> str | None:
    """Return what fixes a refusal by a Postgres that is full or starting; None for other errors."""
    codes = {
        get_sqlstate(link) for link in exception_chain(error) if isinstance(link, psycopg2.Error)
    }
    if "53300" in codes:
        return (
            "wait until others have closed theirs; or allow more connections (max_connections, "
            "alter role … connection limit), or use fewer: `threads` of the target, "
            "MILLRACE_MAX_PARALLEL_SOURCES"
        )
    if "57P03" in codes:
        return "wait until it accepts connections; its own log says what it waits for"
    return None


def get_google_hint(error: BaseException, profile: Profile) -> str | None:
    """Return what fixes a refusal by Google; None for other errors and for transient ones."""
    if classify(error) is not FailureClass.CONFIGURATION:
        return None
    for link in exception_chain(error):
        if is_google_auth_error(link):
            return _google_auth_hint(profile)
        if is_google_api_error(link):
            reasons = {detail.get("reason") for detail in link.errors if isinstance(detail, dict)}
            return _google_api_hint(profile, reasons, link.code)
    return None


def _google_auth_hint(profile: Profile) -> str:
    """Return what fixes missing or invalid credentials, or a refused impersonation."""
    target, setup = profile.target, f"{SETUP_COMMAND} --target {profile.target}"
    account = profile.output.get("impersonate_service_account")
    if "keyfile_json" in profile.output:
        return (
            "the key is wrong, revoked or expired: make another (terraform apply "
            f"-replace='google_service_account_key.dbt[\"{target}\"]'), then {setup}"
        )
    if account is not None:
        return (
            "log in (gcloud auth application-default login), and let who logs in work as "
            f"{account}: roles/iam.serviceAccountTokenCreator, which `impersonators` of target "
            f"{target!r} in infrastructure/terraform/gcp gives"
        )
    return (
        "log in (gcloud auth application-default login), or run as a service account: "
        "documentation/google_cloud.md"
    )


def _google_api_hint(profile: Profile, reasons: set[str | None], status: int | None) -> str:
    """Return what fixes an error of the BigQuery API: a missing role, project or dataset."""
    target, output = profile.target, profile.output
    project, dataset = output.get("project"), output.get("schema", output.get("dataset"))
    apply = f"terraform apply in infrastructure/terraform/gcp, then {SETUP_COMMAND}"
    if "accessDenied" in reasons or status == 403:
        return (
            f"the service account of target {target!r} needs roles/bigquery.jobUser in project "
            f"{output.get('execution_project', project)}, and roles/bigquery.dataEditor on its "
            f"datasets; {apply} gives both"
        )
    if "notFound" in reasons or status == 404:
        return (
            f"correct project ({project}), dataset ({dataset}) or location "
            f"({output.get('location')}) of target {target!r}; {apply}"
        )
    return f"see what Google says above; what is set for target {target!r}: {SETUP_COMMAND} --check"
