"""What a comparison makes of each kind of model: a small project, in a database of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
import yaml

from prefect_flows.reporting.charts.svg import NOTHING
from tests.support.github_server import TOKEN, github_server
from tests.support.project import PATIENCE, REPOSITORY, Scratch, until
from tests.support.pull_requests import COMMAND, PullRequest, cells, rows

pytestmark = pytest.mark.pull_requests

MACRO = "macros/generate_schema_name.sql"


@pytest.fixture
def pull_request(scratch: Scratch) -> PullRequest:
    """A pull request of the scratch project; the tests write what production was run with first."""
    scratch.patience = 600
    (scratch.folder / "dbt" / "macros").mkdir()
    macro = (REPOSITORY / "dbt" / MACRO).read_text()
    (scratch.folder / "dbt" / MACRO).write_text(macro)
    outputs = json.loads((scratch.folder / "outputs.json").read_text())
    targets = outputs["dbt_targets"]["value"]
    targets["ci"] = targets["scratch"] | {"schema": "of_the_target"}
    (scratch.folder / "outputs.json").write_text(json.dumps(outputs))
    done = scratch.setup("--outputs", str(scratch.folder / "outputs.json"), "--target", "ci")
    assert done.returncode == 0, done.stdout + done.stderr
    state = str(scratch.local / "state")
    return PullRequest(scratch, 42, "ci", "scratch", state)


def run_production(scratch: Scratch) -> None:
    done = scratch.run_pipeline("--skip", "docs")
    assert done.returncode == 0, done.stdout + done.stderr


def key(name: str, column: str = "id", **more: object) -> dict[str, object]:
    return {"name": name, "columns": [{"name": column, "data_tests": ["unique"]}], **more}


def table(select: str) -> str:
    return "{{ config(materialized='table') }} " + select


def test_rows_are_matched_by_key_and_values_by_what_they_mean(
    scratch: Scratch, pull_request: PullRequest
) -> None:
    values = (
        "select {id} as id, {text} as name, {sum} as total, '{doc}'::json as document, "
        "{price} as price, {stamp} as _loaded_at, {clock} as exported_at"
    )
    same = {"text": "'a'", "price": "1", "stamp": "now()", "clock": "clock_timestamp()"}
    before = [
        values.format(id=1, sum="0.1::float8 + 0.2 + 0.3", doc='{"a": 1}', **same),
        values.format(id=2, sum="1.0::float8", doc="{}", **same),
        values.format(id=3, sum="'NaN'::float8", doc="{}", **same),
        values.format(id=4, sum="null::float8", doc="{}", **same),
    ]
    after = [
        # The sum in another order, which ends in another digit.
        values.format(id=1, sum="0.3::float8 + 0.2 + 0.1", doc='{"a": 2}', **same),
        values.format(id=3, sum="'NaN'::float8", doc="{}", **same),
        values.format(id=4, sum="0::float8", doc="{}", **same | {"text": "'b'"}),
        values.format(id=5, sum="1.0::float8", doc="{}", **same),
        values.format(id=6, sum="1.0::float8", doc="{}", **same),
    ]
    scratch.model("keyed", table(" union all ".join(before)))
    scratch.model("without_key", table("select 1 as id union all select 2"))
    scratch.model("twice", table("select 1 as id union all select 2"))
    scratch.model("renamed_key", table("select 1 as old_id"))
    scratch.model("retyped", table("select 1 as id, 2::integer as amount, 7 as code, 1 as gone"))
    keyed = key("keyed")
    keyed["columns"].append({"name": "exported_at", "config": {"meta": {"volatile": True}}})
    scratch.properties(models=[keyed, key("retyped"), key("renamed_key", "old_id")])
    run_production(scratch)

    scratch.model("keyed", table(" union all ".join(after)))
    scratch.model("without_key", table("select 1 as id union all select 3 union all select 4"))
    scratch.model("twice", table("select 1 as id union all select 1"))
    scratch.model("renamed_key", table("select 1 as new_id"))
    scratch.model("retyped", table("select 1 as id, 2::bigint as amount, '7'::text as code"))
    scratch.model("unbuilt", "select no_such_column as id")
    models = [keyed, key("retyped"), key("renamed_key", "new_id"), key("twice")]
    scratch.properties(models=models)
    build = pull_request.build(code=1)
    comment, found = pull_request.compare()

    assert rows(found["keyed"]) == (4, 5, 2, 1, 2)
    assert found["keyed"]["changed_by_column"] == {"name": 1, "total": 1, "document": 1}
    assert found["keyed"]["skipped_columns"] == ["_loaded_at", "exported_at"]
    assert rows(found["without_key"]) == (2, 3, None, None, None)
    assert "no key: neither a primary key nor a unique test" in found["without_key"]["notes"][0]
    assert rows(found["twice"]) == (2, 2, None, None, None)
    fault = "id is not unique (duplicate or null in 1 row(s) of the pull request)"
    assert fault in found["twice"]["notes"][0]
    assert "production has no new_id, which is the key here" in found["renamed_key"]["notes"][0]
    assert rows(found["retyped"]) == (1, 1, 0, 0, 0)
    assert found["retyped"]["types"] == {
        "amount": ["integer", "bigint"], "code": ["integer", "text"],
    }  # fmt: skip
    assert found["retyped"]["columns_removed"] == {"gone": "integer"}
    assert found["unbuilt"]["notes"] == ["not built"]
    assert cells(comment, "unbuilt")[1] == "new (**error**)"
    assert cells(comment, "keyed")[2:6] == ["4 → 5", "2", "1", "2"]
    assert cells(comment, "twice")[2:6] == ["2", NOTHING, NOTHING, NOTHING]
    failed = {failure["name"]: failure["status"] for failure in build["failures"]}
    assert failed == {"unbuilt": "error", "unique_twice_id": "fail"}


@pytest.mark.nightly
def test_a_question_that_takes_too_long_is_left_and_named(
    scratch: Scratch, pull_request: PullRequest
) -> None:
    scratch.model("slow", "select 1 as id")
    scratch.properties(models=[key("slow")])
    run_production(scratch)
    # The test of it reads the view once; the comparison has a second.
    slow = "select id from (select 1 as id, pg_sleep(3)) as slept where pg_sleep is not null"
    scratch.model("slow", slow.replace("pg_sleep is not null", "pg_sleep::text = ''"))
    pull_request.build()
    comment, found = pull_request.compare("--seconds", "1")
    assert found["slow"]["notes"] == ["rows are not compared: It takes longer than 1 s"]
    assert "rows are not compared: It takes longer than 1 s" in comment


def test_no_personal_data_leaves_the_warehouse(scratch: Scratch, pull_request: PullRequest) -> None:
    people = (
        "select 1 as id, 'ann@example.com' as email, 'FR' as country "
        "union all select 2, 'bob@example.com', 'XX'"
    )
    scratch.model("people", table(people))
    marked = {"name": "people", "columns": [{"name": "email", "config": {"meta": {"pii": True}}}]}
    scratch.properties(models=[marked])
    run_production(scratch)
    scratch.model("contacts", table("select id, email as mail, country from {{ ref('people') }}"))
    tests = scratch.folder / "dbt" / "tests"
    tests.mkdir()
    (tests / "countries.sql").write_text("select * from {{ ref('contacts') }} where country = 'XX'")
    (tests / "numbers.sql").write_text(
        "select * from {{ ref('contacts') }} where cast(mail as integer) > 0"
    )
    pull_request.build(code=1)
    comment, _ = pull_request.compare()
    assert "Left out as personal data: mail." in comment
    assert "| id | country |\n| --- | --- |\n| 2 | XX |" in comment
    # An error of the database quotes the value; near personal data it is told without.
    assert "invalid input syntax" in comment
    left = [comment, *(f.read_text() for f in pull_request.folder.glob("*.json"))]
    assert not [text for text in left if "example.com" in text.replace(people, "")]

    pull_request.build("--without-rows", code=1)
    comment, _ = pull_request.compare()
    assert "2 failures" in comment
    assert "| id |" not in comment


def test_what_would_be_written_elsewhere_is_refused_before_anything_is(
    scratch: Scratch, pull_request: PullRequest
) -> None:
    run_production(scratch)
    before = scratch.relations()
    (scratch.folder / "dbt" / "snapshots").mkdir()
    (scratch.folder / "dbt" / "snapshots" / "kept.sql").write_text(
        "{% snapshot kept %}{{ config(target_schema='scratch', unique_key='id', strategy='check', "
        "check_cols='all') }} select * from {{ ref('numbers') }}{% endsnapshot %}"
    )
    done = pull_request.run("build", *pull_request.arguments())
    assert done.returncode == 2
    assert "snapshot kept would be written to scratch.scratch, and not to ci_42." in done.stderr
    assert scratch.relations() == before
    assert scratch.query("select 1 from pg_namespace where nspname = 'ci_42'", "scratch") == []


@pytest.mark.nightly
def test_a_snapshot_begins_anew_and_a_versioned_model_keeps_its_contract(
    scratch: Scratch, pull_request: PullRequest
) -> None:
    document = {
        "models": [
            {
                "name": "promised",
                "latest_version": 1,
                "config": {"contract": {"enforced": True}},
                "columns": [
                    {"name": "id", "data_type": "integer"},
                    {"name": "name", "data_type": "text"},
                ],
                "versions": [{"v": 1}],
            }
        ],
        "snapshots": [
            {
                "name": "kept",
                "relation": "ref('numbers')",
                "config": {"unique_key": "id", "strategy": "check", "check_cols": "all"},
            }
        ],
    }
    scratch.model("promised_v1", table("select 1 as id, 'a'::text as name"))
    scratch.properties(models=document["models"])
    (scratch.folder / "dbt" / "snapshots").mkdir()
    snapshots = {"snapshots": document["snapshots"]}
    (scratch.folder / "dbt" / "snapshots" / "kept.yml").write_text(yaml.safe_dump(snapshots))
    done = scratch.run_pipeline("--skip", "docs", "--strategy", "build")
    assert done.returncode == 0, done.stdout + done.stderr

    scratch.model("numbers", table("select 1 as id, 'new' as name"))
    pull_request.build()
    _, found = pull_request.compare()
    assert found["kept"]["notes"] == ["snapshots start empty here: only its columns are compared"]
    assert found["kept"]["columns_added"] == {"name": "text"}
    assert scratch.query("select count(*) from scratch.kept", "scratch") == [(2,)]

    document["models"][0]["columns"].pop()
    scratch.model("promised_v1", table("select 1 as id"))
    scratch.properties(models=document["models"])
    build = pull_request.build(code=1)
    assert build["outcome"] == "refused"
    comment, _ = pull_request.compare()
    assert "## The contract of a versioned model is broken" in comment
    assert "- name" in comment


@pytest.mark.nightly
def test_only_what_is_provably_ours_is_dropped(scratch: Scratch, pull_request: PullRequest) -> None:
    run_production(scratch)
    scratch.model("numbers", table("select 5 as id"))
    pull_request.build()
    query = lambda sql: scratch.query(sql, scratch.database)  # noqa: E731
    ((mark,),) = query("select obj_description(oid) from pg_namespace where nspname = 'ci_42'")
    # GIVEN schemas with the name and without the mark, with the mark of another, and near misses
    for schema in ("ci_1", "ci_2", "ci_3", "ci_4", "ci_05", "ci_6x", "myci_7"):
        query(f"create schema {schema}")
    marked = json.loads(mark)

    def comment_on(schema: str, **other: object) -> None:
        query(f"comment on schema {schema} is '{json.dumps(marked | other)}'")

    comment_on("ci_2", number=9)  # the mark of another number
    comment_on("ci_3", number=3, repository="other/project")
    comment_on("ci_4", number=4, repository=None)
    comment_on("ci_05", number=5)
    comment_on("ci_6x", number=6)

    def schemas() -> set[str]:
        return {name for (name,) in query("select nspname from pg_namespace where nspname ~ 'ci_'")}

    everything = schemas()
    with github_server() as github:
        environment = {"GITHUB_API_URL": github.url, "GITHUB_TOKEN": TOKEN}
        sweep = ("sweep", "--repository", "owner/millrace")
        # WHEN the pull request is open, and then closed
        github.open_pull_requests = [42]
        done = pull_request.run(*sweep, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "ci_42: left: its pull request is open" in done.stdout
        assert schemas() == everything
        github.open_pull_requests = [1, 2, 3]
        done = pull_request.run(*sweep, "--dry-run", **environment)
        assert "ci_42: would be dropped" in done.stdout
        assert schemas() == everything
        # A view of somebody's on it keeps it.
        query("create view public.watching as select * from ci_42.numbers")
        done = pull_request.run(*sweep, **environment)
        assert "ci_42: left: Objects in other schemas depend on the schema ci_42" in done.stdout
        assert schemas() == everything
        query("drop view public.watching")
        done = pull_request.run(*sweep, **environment)
        assert done.stdout.splitlines() == [
            "ci_1: left: Millrace did not create it",
            "ci_2: left: Millrace did not create it",
            "ci_3: left: it belongs to other/project",
            "ci_4: left: it belongs to no repository",
            "ci_42: dropped",
        ]
        # THEN only that one is gone
        assert schemas() == everything - {"ci_42"}
        # AND when GitHub does not say what is open, nothing is.
        pull_request.build()
        done = pull_request.run(*sweep, **environment | {"GITHUB_TOKEN": "wrong"})
        assert done.returncode == 2
        assert "GitHub refuses: 401 Bad credentials." in done.stderr
        assert schemas() == everything
    # A schema with our name that is not ours is neither built into nor dropped.
    query("comment on schema ci_42 is 'mine'")
    for command in (("build", *pull_request.arguments()), ("close", "--number", "42")):
        done = pull_request.run(*command)
        assert done.returncode == 2
        assert "has no Millrace owner for this pull request" in done.stderr
    assert query("select count(*) from ci_42.numbers") == [(1,)]


def test_variables_and_the_end_of_a_large_seed_are_compared(
    scratch: Scratch, pull_request: PullRequest
) -> None:
    """dbt compares no variables, and only the path of a seed of more than 1 MiB."""
    project_file = scratch.folder / "dbt" / "dbt_project.yml"
    text = project_file.read_text()
    seed = scratch.folder / "dbt" / "seeds" / "large.csv"
    seed.parent.mkdir()
    long_rows = ("x" * 2**16 + "\n") * 17
    scratch.model("limited", table("select {{ var('limit') }} as id"))
    scratch.model("behind", table("select * from {{ ref('limited') }}"))
    scratch.model("grown", table("select * from {{ ref('large') }}"))
    project_file.write_text(text + "vars: {limit: 1, unread: 1}\n")
    seed.write_text(f"id\n{long_rows}old\n")
    run_production(scratch)

    project_file.write_text(text + "vars: {limit: 2, unread: 2}\n")
    seed.write_text(f"id\n{long_rows}new\n")
    build = pull_request.build()

    changes = {node["unique_id"].split(".")[2]: node["change"] for node in build["nodes"]}
    assert changes == {
        "limited": "modified", "behind": "downstream", "large": "modified", "grown": "downstream",
    }  # fmt: skip
    comment, found = pull_request.compare()
    assert cells(comment, "limited")[1] == "modified: variables"
    assert rows(found["behind"])[:2] == (1, 1)
    assert scratch.query("select id from ci_42.behind", scratch.database) == [(2,)]


def test_what_cannot_be_compared_is_reported_before_anything_is_built(
    scratch: Scratch, pull_request: PullRequest
) -> None:
    done = pull_request.run("build", *pull_request.arguments())
    assert done.returncode == 2
    assert "No whole run of target 'scratch' was good yet" in done.stderr
    run_production(scratch)
    done = pull_request.run("build", "--number", "42", "--production", "dev", "--no-prefect")
    assert done.returncode == 2
    assert "fix:" in done.stderr
    elsewhere = PullRequest(scratch, 42, "ci", "dev", pull_request.state_url)
    done = elsewhere.run("build", *elsewhere.arguments())
    assert done.returncode == 2
    assert "Targets 'ci' and 'dev' are not in one warehouse" in done.stderr
    output = str(scratch.folder / "comment.md")
    done = pull_request.run("compare", *pull_request.arguments("--output", output))
    assert done.returncode == 2
    assert "Pull request 42 was not built on this machine" in done.stderr
    done = pull_request.run("close", "--number", "42")
    assert (done.returncode, done.stdout.strip()) == (0, "ci_42: there is none")


@pytest.mark.nightly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_build_that_is_stopped_or_killed_holds_up_no_other(
    scratch: Scratch, pull_request: PullRequest, number: signal.Signals
) -> None:
    run_production(scratch)
    scratch.model("slow", table("select 1 as id from (select pg_sleep(20)) as slept"))
    with subprocess.Popen(
        [sys.executable, *COMMAND, "build", "--target", "ci", *pull_request.arguments()],
        cwd=scratch.folder, env=scratch.variables(**pull_request.variables),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        working = (
            "select count(*) from pg_stat_activity where query like '%pg_sleep(20)%' "
            "and state = 'active' and pid <> pg_backend_pid()"
        )

        def is_working() -> bool:
            assert process.poll() is None
            return scratch.query(working, scratch.database) != [(0,)]

        until(is_working)
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == (130 if number == signal.SIGTERM else -number)
    if number == signal.SIGTERM:
        assert "fix:   build it again, which starts over" in said
        assert scratch.query(working, scratch.database) == [(0,)], "its statement was cancelled"
    output = str(scratch.folder / "comment.md")
    done = pull_request.run("compare", *pull_request.arguments("--output", output))
    assert "was not built on this machine, or its build did not end" in done.stderr
    # The next push has another model, and gets the schema.
    scratch.model("slow", table("select 1 as id"))
    assert pull_request.build("--wait", "60")["outcome"] == "passed"
    found = scratch.query("select id from ci_42.slow", scratch.database)
    assert found == [(1,)]
