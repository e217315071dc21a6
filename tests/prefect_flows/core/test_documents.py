"""What people write by hand, at its worst: a sentence each, and never a traceback or a value."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from infrastructure.ci.check_sources import folder
from infrastructure.prefect_resources import secrets
from infrastructure.prefect_resources.automations import automations_file
from infrastructure.prefect_resources.config_files import ENGINE_CONFIG_DIR
from infrastructure.prefect_resources.deployments import prefect_yaml
from infrastructure.prefect_resources.work_pools import pools_file
from infrastructure.setup_profiles import contract, desired, profiles_yml
from prefect_flows import pipeline
from prefect_flows.core.documents import (
    DocumentError,
    parse_json,
    parse_json_or_yaml,
    parse_yaml,
    read_text,
)
from prefect_flows.core.errors import ConfigurationError, MillraceError
from prefect_flows.core.profiles import read_profile_name
from prefect_flows.core.settings import Settings, load_settings
from prefect_flows.ingest import source_registry
from prefect_flows.ingest.arguments import build_source_arguments
from prefect_flows.run_parameters import refuse_plaintext_secrets
from tests.support.project import REPOSITORY

DEEP = 5_000
BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)

FAULTS_OF_JSON = {
    '{"a": 1, "b": {"c": 1, "c": 2}}': "the key 'c' is duplicated",
    '\ufeff{"a": 1}': "it begins with a byte order mark (BOM); save it as UTF-8 without one",
    "[" * DEEP + "]" * DEEP: "it is nested more than 100 deep",
    '{"a": ' * 101 + "1" + "}" * 101: "it is nested more than 100 deep",
    '{"a": ' + "9" * DEEP + "}": "a number has 5,000 digits",
    '{"a": [1, 1e999]}': "a.1: no finite number",
    '{"a": NaN}': "NaN is not a JSON value",
    r'{"a": "\ud800"}': "a: a text has half of a surrogate pair, which is not a character",
    r'{"\udfff": 1}': "\\udfff: a text has half of a surrogate pair, which is not a character",
    '{"a": "s3cret\udcff"}': "a: a text has half of a surrogate pair, which is not a character",
    r'{"a": {"b": "s3cret\u0000"}}': "a.b: a text has a zero character",
    '{"a": s3cret}': "not JSON: Expecting value: line 1 column 7 (char 6)",
}
FAULTS_OF_YAML = {
    "a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n": "the key 'c' is duplicated, in lines 3 and 5",
    "[" * 2_000: "it is nested more than 100 deep",
    "a: " + "9" * DEEP: "it is not YAML: invalid date or number",
    "a: 2026-13-45": "it is not YAML: invalid date or number",
    "a: .inf": "a: no finite number",
    'a: "s3cret\\0"': "a: a text has a zero character",
    'a: "\\ud800"': "a: a text has half of a surrogate pair, which is not a character",
    "a: \x07": "it is not YAML: character U+0007 is not allowed",
    "a: [s3cret": "it is not YAML: line 1, column 11: expected ',' or ']', but got '<stream end>'",
    "a: !!python/object/apply:os.system [s3cret]":
        "it is not YAML: line 1, column 4: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/object/apply:os.system'",
    "? [a]\n: 1\n": "it is not YAML: line 1, column 3: found unhashable key",
    "a: &a [*a]": "it stands for more than 200,000 values",
    BOMB: "it stands for more than 200,000 values",
    "a: 1\n---\nb: 1\n":
        "it is not YAML: line 2, column 1: but found another document",
}  # fmt: skip
FAULTS_OF_FILES = {
    "a: 1\n".encode("utf-16"): "it is UTF-16, as PowerShell's `>` writes it; save it as UTF-8: "
    "… | Out-File -Encoding utf8NoBOM FILE",
    "a: 1\n".encode("utf-16-le"): "it is UTF-16, as PowerShell's `>` writes it; save it as UTF-8: "
    "… | Out-File -Encoding utf8NoBOM FILE",
    b"\xef\xbb\xbfa: 1\n": "it begins with a byte order mark (BOM); save it as UTF-8 without one",
    "a: 1\nb: müller\n".encode("latin-1"): "byte 0xfc in line 2 is not UTF-8; save it as UTF-8",
}


@pytest.mark.parametrize("text", FAULTS_OF_JSON, ids=FAULTS_OF_JSON.values())
def test_each_fault_of_json_is_a_sentence_without_a_value(text: str) -> None:
    with pytest.raises(DocumentError) as refused:
        parse_json(text)
    assert str(refused.value) == FAULTS_OF_JSON[text]
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"at": 1e5}', {"at": 100_000.0}),
        ("{days: 3, at: 1e5}", {"days": 3, "at": "1e5"}),
        ("days: 3", {"days": 3}),
    ],
)
def test_a_value_of_a_command_line_is_json_or_yaml(text: str, value: object) -> None:
    assert parse_json_or_yaml(text) == value


def test_what_neither_reads_is_refused() -> None:
    with pytest.raises(DocumentError, match="it is not YAML"):
        parse_json_or_yaml("{")


@pytest.mark.parametrize("text", FAULTS_OF_YAML, ids=FAULTS_OF_YAML.values())
def test_each_fault_of_yaml_is_a_sentence_without_a_value(text: str) -> None:
    with pytest.raises(DocumentError) as refused:
        parse_yaml(text)
    assert str(refused.value) == FAULTS_OF_YAML[text]


@pytest.mark.parametrize("data", FAULTS_OF_FILES)
def test_each_fault_of_an_encoding_is_a_sentence(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(DocumentError) as refused:
        read_text(tmp_path / "file")
    assert str(refused.value) == FAULTS_OF_FILES[data]
    with pytest.raises(DocumentError, match="UTF-"):
        parse_json(data)


def test_what_is_right_is_read_as_it_was() -> None:
    for file in [
        REPOSITORY / "prefect.yaml",
        *source_registry.get_sources_dir().glob("*/prefect.yaml"),
    ]:
        assert parse_yaml(file.read_text()) == yaml.safe_load(file.read_text())
    for text in ('{"a": [1, 2.5, null, true, "ü\\ud83d\\ude00"]}', "[]", '"x"', "{}"):
        assert parse_json(text) == json.loads(text)
    # Merged keys are no duplicates, and an alias is read wherever it stands.
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: *a\n") == {
        "a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 1, "y": 2},
    }  # fmt: skip
    assert parse_yaml("") is None
    assert parse_json("[" * 100 + "]" * 100)


# What is written in place of a part of a document that is right.
TOKENS = [
    "", '"', "'", "{", "}", "[", "]", ":", ",", "\n", "- ", "null", "true", "-1", "0", "1e999",
    "NaN", '"x"', '""', "{}", "[]", "[[1]]", '{"a": {"b": []}}', "&a", "*a", "<<: *a", "!!int x",
    "!!binary x", "!!timestamp x", "!!set {a}", "? [a]", "2026-13-45", "0x_", "0b2", "1_0:2",
    ".inf", "=", "@", "`", "%YAML 9.9", "---", "...", "\t", "\ufeff", "\0", "\udcff", "\\ud800",
    "\\u0000", "[/red]", "{{ x }}", "${NAME}", "${NAME:-}", "9" * 30, "9" * 5_000, "[" * 300,
    "{a: " * 300, "ü", "😀", "x" * 3_000,
]  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from([10**30, "[/red]", "\0", "\ud800", "postgres", "bigquery", "slack", "-1",
                         "{{ x }}", "${NAME}", "* * * * *", "5m", "dev", "x" * 100]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip


@st.composite
def mutated_text(draw: st.DrawFn, text: str) -> str:
    """A document with some of its characters replaced."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(st.sampled_from(TOKENS)) + text[end:]
    return text


@st.composite
def mutated_value(draw: st.DrawFn, document: Any) -> Any:
    """A document with a value in place of one of its own, wherever it is, or beside it."""
    if not isinstance(document, (dict, list)) or not document or draw(st.integers(0, 5)) == 0:
        return draw(VALUES)
    if isinstance(document, list):
        place = draw(st.integers(0, len(document) - 1))
        return [
            draw(mutated_value(inner)) if index == place else inner
            for index, inner in enumerate(document)
        ]
    key = draw(st.sampled_from(sorted(document, key=str)))
    renamed = draw(st.sampled_from([key, key, key, key, "other", "", "[/]"]))
    return {
        renamed if inner == key else inner: draw(mutated_value(value)) if inner == key else value
        for inner, value in document.items()
    }


def mutations(text: str) -> st.SearchStrategy[str]:
    """Texts that are nearly a document, which is JSON or YAML."""
    value = yaml.safe_load(text)
    return mutated_text(text) | mutated_value(value).map(
        lambda changed: json.dumps(changed) if text.startswith("{") else yaml.dump(changed)
    )


OUTPUTS = json.dumps({
    "dbt_targets": {"value": {
        "dev": {"type": "postgres", "host": "/tmp", "port": 5432, "database": "d", "user": "u",
                "schema": "s", "threads": 4, "sslmode": None},
        "prod": {"type": "bigquery", "project": "p", "dataset": "d", "location": "EU",
                 "threads": 4},
    }},
    "dbt_target_secrets": {"value": {
        "dev": {"password": "pw"},
        "prod": {"service_account_key": json.dumps(
            {"type": "service_account", "project_id": "p", "private_key": "k", "client_email": "e",
             "token_uri": "t"})},
    }},
    "dbt_target_notices": {"value": {"dev": {
        "receivers": {"mail": {"type": "email", "server": "m", "port": 25, "sender": "a@b.c",
                               "recipients": ["d@e.f"]},
                      "hook": {"type": "webhook", "url": "https://h/x", "headers": {"A": "b"}}},
        "events": ["failure"], "owners": {"shop": "@shop"}}}},
    "state_url": {"value": "/srv/state"},
})  # fmt: skip
PROFILES = (
    profiles_yml.HEADER
    + "# Targets that setup replaces (others stay as they are, comments do not): dev\n"
    + "millrace:\n  target: dev\n  outputs:\n    dev: {type: postgres, host: h}\n"
)
VARS = '{"disabled_sources": ["files__inbox"], "days": 3, "of": {"a": ["b"]}}'
ARGUMENTS = json.dumps({
    "files__inbox": {"url": "inbox", "tables": {"a": "*.csv"}, "types": {"a": {"b": "text"}},
                     "nulls": ["NA"], "min_age_seconds": 1, "escape": "x"},
    "sql__database": {"tables": {"a": {"cursor": "id", "key": ["id"]}, "b": None}},
    "nyc__flights": {"full_refresh": True},
})  # fmt: skip


def read_outputs(text: str, _folder: Path) -> None:
    found = contract.parse_contract(text, where="here", fix="write it")
    blocks = desired.desired_blocks(found, "millrace")
    for name in found.targets:
        yaml.safe_dump(desired.build_profile(blocks, name).dbt_output())


def read_vars(text: str, _folder: Path) -> None:
    parameters = pipeline._parse({"vars": text, "source_arguments": "{}"}, {})
    refuse_plaintext_secrets(parameters)
    source_registry.disabled_sources(REPOSITORY / "dbt" / "dbt_project.yml", parameters.vars)


def read_arguments(text: str, _folder: Path) -> None:
    parameters = pipeline._parse({"vars": "{}", "source_arguments": text}, {})
    for name in parameters.source_arguments:
        source_registry.require_source(name)
    refuse_plaintext_secrets(parameters)
    for name, arguments in parameters.source_arguments.items():
        build_source_arguments(name, "dev", arguments, lambda _: "secret")


def in_file(read: Callable[[Path], object]) -> Callable[[str, Path], None]:
    def run(text: str, folder: Path) -> None:
        file = folder / "file.yaml"
        file.write_bytes(text.encode(errors="surrogateescape"))
        read(file)

    return run


def read_profiles(file: Path) -> None:
    outputs = contract.parse_contract(OUTPUTS, where="here", fix="write it")
    blocks = desired.desired_blocks(outputs, "millrace")
    profiles_yml.render(file, [desired.build_profile(blocks, "dev")], has_all_targets=True)


def read_source(file: Path) -> None:
    """As the pipeline reads the arguments of a source, and as the check of sources reads it."""
    (file.parent / "a__b").mkdir(exist_ok=True)
    (file.parent / "a__b" / "prefect.yaml").write_bytes(file.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_SOURCES_DIR", str(file.parent))
        source_registry.configured_arguments("a__b", "dev")


def read_project(file: Path) -> None:
    (file.parent / "dbt_project.yml").write_bytes(file.read_bytes())
    source_registry.disabled_sources(file.parent / "dbt_project.yml", {})
    read_profile_name(file.parent)


SOURCE = """
name: acme__orders
prefect-version: 3.9.1
pull: []
definitions:
  ingest: &ingest
    entrypoint: prefect_flows.sources.acme__orders.flow.ingest_acme_orders
    concurrency_limit: {limit: 1, collision_strategy: ENQUEUE}
deployments:
  - <<: *ingest
    name: acme--orders--dev
    parameters: {target: dev, days: 3}
    tags: [source, dev]
    work_pool: {name: default-pool}
    schedules: [{cron: 0 1 * * *, timezone: UTC}]
"""
# Their documents name sources of the example.
NEED_EXAMPLE = ("vars", "source_arguments")
PARSERS: dict[str, tuple[str, Callable[[str, Path], None]]] = {
    "outputs": (OUTPUTS, read_outputs),
    "vars": (VARS, read_vars),
    "source_arguments": (ARGUMENTS, read_arguments),
    "pools": (
        (ENGINE_CONFIG_DIR / pools_file.POOLS_FILE).read_text(),
        in_file(lambda file: pools_file.read_pools(load_settings(), file)),
    ),
    "automations": (
        (ENGINE_CONFIG_DIR / automations_file.AUTOMATIONS_FILE).read_text(),
        in_file(automations_file.read_automations),
    ),
    "prefect.yaml": (
        (REPOSITORY / "prefect.yaml").read_text(), in_file(prefect_yaml.read_deployments)
    ),
    "prefect.yaml of a source": (SOURCE, in_file(prefect_yaml.read_deployments)),
    "arguments in prefect.yaml": (SOURCE, in_file(read_source)),
    "profiles.yml": (PROFILES, in_file(read_profiles)),
    "dbt_project.yml": (
        (REPOSITORY / "dbt" / "dbt_project.yml").read_text(), in_file(read_project),
    ),
    "secret": (
        '{"username": "u", "password": "p"}', lambda text, _: secrets._parse_value(text, "n"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("examples", [15, pytest.param(3_000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    "parser",
    [
        pytest.param(each, marks=[pytest.mark.example] if each in NEED_EXAMPLE else [])
        for each in PARSERS
    ],
)
def test_any_document_is_read_or_refused_with_a_message(
    parser: str, examples: int, tmp_path: Path
) -> None:
    document, read = PARSERS[parser]

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
    )  # fmt: skip
    @example(text=document)
    @example(text="")
    @example(text="[]")
    @example(text="{}")
    @example(text="[" * DEEP)
    @example(text='{"a": ' * 200 + "1" + "}" * 200)
    @example(text='{"a": ' + "9" * DEEP + "}")
    @example(text=BOMB)
    @given(text=mutations(document))
    def check(text: str) -> None:
        said = None
        try:
            read(text, tmp_path)
        except MillraceError as error:
            said = error
        # What a person sees can be written anywhere, and says what to do.
        assert said is None or (str(said).encode() and said.fix)

    check()
    # AND what is right is read: the refusals above are not of everything.
    if parser != "pools":  # whose variables are not set here
        read(document, tmp_path)


def test_a_source_with_a_binary_file_has_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "prefect_flows" / "sources" / "a__b" / "prefect.yaml"
    file.parent.mkdir(parents=True)
    file.write_bytes("name: a".encode("utf-16"))
    with pytest.raises(folder.UnreadableFileError) as refused:
        folder.Source(Settings(project_dir=tmp_path), "a__b").read_yaml(
            "prefect_flows/sources/a__b/prefect.yaml"
        )
    assert "it is UTF-16" in str(refused.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("MILLRACE_KEEP_RUNS=3\n".encode("utf-16"), "it is UTF-16"),
        (b"\xef\xbb\xbfMILLRACE_KEEP_RUNS=3\n", "it begins with a byte order mark"),
        (b"MILLRACE_KEEP_RUNS=\xff\n", "byte 0xff in line 1 is not UTF-8"),
        (b"MILLRACE_STAGES={\n", "MILLRACE_STAGES must be a JSON object"),
    ],
)
def test_settings_that_cannot_be_read_are_named(
    data: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_PROJECT_DIR", str(tmp_path))
    (tmp_path / ".env").write_bytes(data)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    assert said in refused.value.what
    assert ".env" in refused.value.where


@pytest.mark.example
@pytest.mark.parametrize(
    "secret", ["postgresql://u:s3cret\udcff@h/d", "postgresql://u:s3cret\0@h/d"]
)
def test_a_secret_that_no_database_takes_is_refused_without_it(secret: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        build_source_arguments("sql__database", "dev", {"tables": {}}, lambda _: secret)
    assert "The secret for 'url' of source 'sql__database' cannot be used: a text has" in str(
        refused.value
    )
    assert "DBT_ENV_SECRET_SQL_DATABASE_URL_DEV" in refused.value.where
    assert "s3cret" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.example
def test_a_block_with_an_object_gives_a_source_its_text() -> None:
    found = build_source_arguments("files__inbox", "dev", {"url": "x"}, lambda _: {"key": "a"})
    assert found == {"url": "x", "storage_options": '{"key": "a"}'}


@pytest.mark.example
@pytest.mark.parametrize("tables", ["5", '{"a": 5}', '{"a": 1, "a": 2}', "[" * DEEP])
def test_invalid_tables_of_a_database_are_reported(
    tables: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from prefect_flows.sources.sql__database.flow import main

    app = typer.Typer()
    app.command()(main)
    with pytest.raises(SystemExit) as ended:
        app(["--tables", tables, "--target", "dev"])
    assert ended.value.code == 2
    assert "tables" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--select", "--exclude", "--source", "--target", "--strategy"])
def test_an_option_that_is_not_text_is_named(option: str) -> None:
    name = {"--source": "sources"}.get(option, option.removeprefix("--"))
    value: Any = ["x\udcff"] if option in ("--select", "--exclude", "--source") else "x\udcff"
    with pytest.raises(ConfigurationError) as refused:
        pipeline._parse({}, {name: value})
    assert f"options: {name}" in refused.value.what
