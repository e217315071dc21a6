"""Every fault of Terraform's outputs is named at once, with its path."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from infrastructure.setup_profiles.contract import Contract, parse_contract
from infrastructure.setup_profiles.desired import build_profile, desired_blocks
from infrastructure.setup_profiles.notices import desired_notices
from prefect_flows.core.errors import ContractError
from tests.support.project import REPOSITORY

POSTGRES = {
    "type": "postgres",
    "host": "localhost",
    "port": 5432,
    "database": "analytics",
    "user": "dbt",
    "schema": "dev",
    "threads": 4,
}
BIGQUERY = {
    "type": "bigquery",
    "project": "made-up",
    "dataset": "analytics",
    "location": "EU",
    "threads": 8,
}
KEY = {
    "type": "service_account",
    "project_id": "made-up",
    "private_key": "made-up-secret",
    "client_email": "dbt@made-up.example",
    "token_uri": "https://made-up.example/token",
    "private_key_id": "1",
}


def parsed(**outputs: Any) -> Contract:
    document = {name: {"sensitive": False, "value": value} for name, value in outputs.items()}
    return parse_contract(json.dumps(document), where="here", fix="this")


def faults_of(text: str) -> list[str]:
    with pytest.raises(ContractError) as error:
        parse_contract(text, where="outputs.json", fix="terraform apply")
    assert "where: outputs.json" in str(error.value)
    assert "fix:   terraform apply; documentation/contract.md says what" in str(error.value)
    for module in ("infrastructure/terraform/postgres", "infrastructure/terraform/gcp"):
        assert module in error.value.fix
        assert (REPOSITORY / module / "outputs.tf").exists()
    return error.value.faults


def faults(**outputs: Any) -> list[str]:
    return faults_of(json.dumps({name: {"value": value} for name, value in outputs.items()}))


def test_both_warehouses_and_any_names_are_taken() -> None:
    contract = parsed(
        dbt_targets={"dev": POSTGRES, "blue-2": BIGQUERY | {"priority": "batch"}},
        dbt_target_secrets={
            "dev": {"password": "made-up"},
            "blue-2": {"service_account_key": json.dumps(KEY)},
        },
        state_url="gs://made-up/state",
    )
    assert list(contract.targets) == ["dev", "blue-2"]
    assert contract.state_url == "gs://made-up/state"
    assert "made-up-secret" not in repr(contract)


def test_a_state_url_without_a_bucket_or_with_a_login_is_a_fault_and_not_repeated() -> None:
    (unset,) = faults(dbt_targets={"dev": POSTGRES}, state_url="s3://")
    assert unset.startswith("state_url: the part after s3:// must be the name of a bucket")
    (login,) = faults(dbt_targets={"dev": POSTGRES}, state_url="s3://AKIA:made/up@bucket/x")
    assert login.startswith("state_url: its URL holds a login")
    assert "millrace secret state-store-login" in login
    assert "made/up" not in login


def test_nulls_of_optional_attributes_are_as_if_absent() -> None:
    contract = parsed(
        dbt_targets={"dev": POSTGRES | {"sslmode": None}},
        dbt_target_secrets={"dev": {"password": None}},
        state_url=None,
    )
    assert contract.targets["dev"] == parsed(dbt_targets={"dev": POSTGRES}).targets["dev"]
    assert contract.secrets["dev"].password is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "the document is empty"),
        ("{", "not JSON: Expecting property name"),
        ("{}", "the document has no outputs"),
        ("[]", "the document is not an object of outputs"),
        ('{"dbt_targets": 5}', "dbt_targets: not an output of `terraform output -json`"),
    ],
)
def test_a_document_that_is_none(text: str, fault: str) -> None:
    assert faults_of(text)[0].startswith(fault)


def test_every_fault_is_listed_at_once() -> None:
    incomplete = {"type": "bigquery", "project": "made-up", "threads": 0}
    found = faults(
        dbt_targets={
            "dev": POSTGRES | {"port": "5432", "ssl": True},
            "prod": incomplete,
            "Prod_1": POSTGRES,
            "old": {"type": "oracle"},
        },
        dbt_target_secrets={"prod": {"password": "made-up"}, "staging": {"password": "made-up"}},
        more=1,
    )
    assert found == [
        "dbt_targets.dev.port: must be a whole number",
        "dbt_targets.dev.ssl: there is no such field",
        "dbt_targets.prod.dataset: this field is required",
        "dbt_targets.prod.location: this field is required",
        "dbt_targets.prod.threads: must be greater than 0",
        "dbt_targets.Prod_1: not a valid target name: lowercase letters and digits, with single "
        "dashes or underscores between them, beginning with a letter (it becomes part of a "
        "block's name)",
        "dbt_targets.old: the field 'type' must be one of 'postgres', 'bigquery'",
        "more: there is no such field",
        "dbt_target_secrets.prod: a target of type bigquery takes service_account_key",
        "dbt_target_secrets.staging: dbt_targets has no such target",
    ]


def test_no_target_is_a_fault() -> None:
    assert faults(dbt_targets={})[0].startswith("dbt_targets: must have at least 1")
    assert faults(state_url="x") == ["dbt_targets: this field is required"]


def test_a_wrong_secret_is_not_repeated_in_the_fault() -> None:
    found = faults(
        dbt_targets={"dev": POSTGRES, "prod": BIGQUERY},
        dbt_target_secrets={
            "dev": {"password": ["made-up-secret"]},
            "prod": {"service_account_key": KEY | {"type": "user"}},
        },
    )
    assert [fault.split(":")[0] for fault in found] == [
        "dbt_target_secrets.dev.password",
        "dbt_target_secrets.prod.service_account_key.type",
    ]
    assert "made-up-secret" not in " ".join(found)


NOTICES = {
    "receivers": {
        "team": {"type": "slack", "url": "https://hooks.slack.com/services/T0/B0/madeUpSecret"},
        "hook": {"type": "webhook", "url": "https://example.com/madeUpSecret", "headers": None},
    },
    "events": ["failure", "success"],
    "owners": None,
}


def test_recipients_become_blocks_and_a_variable() -> None:
    receivers = NOTICES["receivers"] | {  # type: ignore[operator]
        "chat": {"type": "discord", "url": "https://discord.com/api/webhooks/123/madeUpSecret"},
        "mail": {
            "type": "email", "server": "smtp.example.com", "user": "me@example.com",
            "password": "madeUpSecret/@", "sender": "me@example.com",
            "recipients": ["a@example.com", "b@example.com"],
        },
    }  # fmt: skip
    contract = parsed(
        dbt_targets={"blue-2": POSTGRES},
        dbt_target_notices={
            "blue-2": NOTICES
            | {"receivers": receivers, "routes": {"chat": {"owners": ["shop"], "groups": None}}}
        },
    )
    assert "madeUpSecret" not in repr(contract)
    wanted = {each.name: each for each in desired_notices(contract.notices)}
    assert wanted["notify-blue-2--team"].data["url"].endswith("madeUpSecret")
    assert wanted["notify-blue-2--chat"].data == {
        "webhook_id": "123", "webhook_token": "madeUpSecret",
    }  # fmt: skip
    hook = wanted["notify-blue-2--hook"].data
    assert hook["secrets"] == {"url": "https://example.com/madeUpSecret"}
    assert "madeUpSecret" not in json.dumps(dict(hook) | {"secrets": None})
    mail = urlsplit(wanted["notify-blue-2--mail"].data["url"])
    assert (mail.scheme, mail.hostname, mail.port) == ("mailtos", "smtp.example.com", 587)
    assert unquote(str(mail.password)) == "madeUpSecret/@"
    assert parse_qs(mail.query)["to"] == ["a@example.com,b@example.com"]
    assert wanted["millrace_notices_blue_2"].data["value"] == {
        "events": ["failure", "success"], "owners": {},
        "routes": {"chat": {"owners": ["shop"], "groups": [], "tags": []}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"events": ["failures"]}, "dbt_target_notices.dev.events.0: must be 'failure'"),
        ({"receivers": {}}, "dbt_target_notices.dev.receivers: must have at least 1"),
        ({"receivers": {"a": {"type": "pigeon"}}}, "dbt_target_notices.dev.receivers.a: the field"),
        ({"receivers": {"a_b": NOTICES["receivers"]["team"]}},  # type: ignore[index]
         "dbt_target_notices.dev.receivers.a_b: must match"),
        ({"receivers": {"a": {"type": "slack", "url": "https://example.com/madeUpSecret"}}},
         "dbt_target_notices.dev.receivers.a.url: not an incoming webhook"),
        ({"receivers": {"a": {"type": "teams", "url": "https://example.com/madeUpSecret"}}},
         "dbt_target_notices.dev.receivers.a.url: not the address of a workflow"),
        ({"receivers": {"a": {"type": "discord", "url": "https://discord.com/madeUpSecret"}}},
         "dbt_target_notices.dev.receivers.a.url: not a webhook"),
        ({"receivers": {"a": {"type": "webhook", "url": "madeUpSecret"}}},
         "dbt_target_notices.dev.receivers.a.url: not an address"),
        ({"receivers": {"a": {"type": "email", "server": "s", "sender": "a@b", "recipients": []}}},
         "dbt_target_notices.dev.receivers.a.recipients: must have at least 1"),
        ({"routes": {"tema": {"owners": ["shop"]}}},
         "dbt_target_notices.dev: routes.tema: there is no such receiver"),
        ({"routes": {"team": {"owners": ["shop"]}, "hook": {"tags": ["daily"]}}},
         "dbt_target_notices.dev: every receiver has a route; leave one without"),
        ({"routes": {"team": {}}}, "dbt_target_notices.dev.routes.team: name owners, groups or"),
        ({"routes": {"team": {"owner": ["shop"]}}},
         "dbt_target_notices.dev.routes.team: there is no such field"),
    ],
)  # fmt: skip
def test_faults_of_notices_have_their_path_and_no_secret(
    change: dict[str, Any], fault: str
) -> None:
    found = faults(dbt_targets={"dev": POSTGRES}, dbt_target_notices={"dev": NOTICES | change})
    assert len(found) == 1
    assert found[0].startswith(fault)
    assert "madeUpSecret" not in found[0]


def test_notices_of_no_target() -> None:
    assert faults(dbt_targets={"dev": POSTGRES}, dbt_target_notices={"qa": NOTICES}) == [
        "dbt_target_notices.qa: dbt_targets has no such target"
    ]


def test_further_keys_of_dbt_reach_its_profile_and_a_target_keeps_its_underscores() -> None:
    target = POSTGRES | {"sslmode": "require", "dbt_options": {"role": "reader", "keepalives": 5}}
    contract = parsed(dbt_targets={"dev_us": target})
    blocks = desired_blocks(contract, "shop")
    assert all("_" not in block.name for block in blocks if block.name.startswith("dbt-cli"))
    profile = build_profile(blocks, "dev_us")
    assert (profile.name, profile.target) == ("shop", "dev_us")
    given = {"role": "reader", "keepalives": 5, "sslmode": "require"}
    assert given.items() <= profile.dbt_output().items()


def test_what_the_contract_says_itself_is_no_further_key() -> None:
    target = POSTGRES | {"dbt_options": {"password": "made-up-secret", "port": 1}}
    assert faults(dbt_targets={"dev": target}) == [
        "dbt_targets.dev.dbt_options: password, port must not be here: the target's own keys and "
        "dbt_target_secrets say it"
    ]


def test_two_targets_whose_blocks_would_have_one_name_are_refused() -> None:
    assert faults(dbt_targets={"dev_us": POSTGRES, "dev-us": POSTGRES}) == [
        "dbt_targets.dev_us: its blocks would have the names of those of dev-us"
    ]
