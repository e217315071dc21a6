"""What goes wrong after tables were built: it does not hide that they were, nor undo it."""

from __future__ import annotations

import shutil
from contextlib import closing

from tests.support.project import PATIENCE, Scratch, until

ONCE = """
create sequence reads;
create function fails_once() returns int language plpgsql as $$ begin
    if nextval('public.reads') = 1 then
        raise exception 'made up' using errcode = '40001';
    end if;
    return 1;
end $$
"""


def test_marts_of_any_name_are_counted_and_an_unreadable_one_is_reported(
    scratch: Scratch,
) -> None:
    scratch.query(ONCE, scratch.database)
    (scratch.folder / "dbt" / "models" / "marts").mkdir()
    numbers = "select id from {{ ref('numbers') }}"
    scratch.model("marts/it's", f"{{{{ config(materialized='table') }}}} {numbers}")
    scratch.model("marts/broken", f"{numbers} where 1 / (id - id) = 1")
    scratch.model("marts/fails_once", f"{numbers} where public.fails_once() = 1")

    done = scratch.run_pipeline(
        "--no-prefect", MILLRACE_STAGES__COUNT_MARTS__RETRY_DELAY_SECONDS="0.1"
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "The rows of broken are not counted, it cannot be read: " in done.stderr
    assert "division by zero" in done.stderr
    assert "Trying again in 0.1 s." in done.stderr
    counted = [line.split("│")[1:3] for line in done.stdout.splitlines() if line.count("│") == 3]
    rows = {name.strip(): count.strip() for name, count in counted}
    assert (rows.get("it's"), rows.get("fails_once"), rows.get("broken")) == ("2", "2", None)
    assert "Traceback" not in done.stderr


def test_a_count_that_takes_too_long_is_stopped_in_the_warehouse_and_the_run_passes(
    scratch: Scratch,
) -> None:
    (scratch.folder / "dbt" / "models" / "marts").mkdir()
    scratch.model("marts/slow", "select id from {{ ref('numbers') }} where pg_sleep(60) is null")

    done = scratch.run_pipeline("--no-prefect", MILLRACE_STAGES__COUNT_MARTS__TIMEOUT_SECONDS="0.5")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "The rows of the marts are not counted. count-marts did not end" in done.stderr
    assert "MILLRACE_STAGES__COUNT_MARTS__TIMEOUT_SECONDS" in done.stderr
    sleeping = "select 1 from pg_stat_activity where state = 'active' and query like '%slow%'"
    assert scratch.query(f"{sleeping} and pid <> pg_backend_pid()") == []


def test_a_run_that_built_tables_does_not_say_that_nothing_was_changed(scratch: Scratch) -> None:
    """The state store goes away, which ends a run that has not begun with exit code 2."""
    scratch.model(
        "held", "{{ config(materialized='table') }} select pg_advisory_lock(1)::text as x"
    )
    state = scratch.local / "state"
    with closing(scratch.connect(scratch.database)) as connection, connection.cursor() as cursor:
        cursor.execute("select pg_advisory_lock(1)")
        process = scratch.start_pipeline("--no-prefect")
        try:
            until(lambda: "numbers" in scratch.relations())
            shutil.rmtree(state)
            state.write_text("no folder")
            cursor.execute("select pg_advisory_unlock(1)")
            said, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
            process.communicate()

    assert "StateStoreError: " in said, said
    assert process.returncode == 1, said
    assert scratch.relations() == {"numbers", "doubled", "held"}
    again = scratch.run_pipeline("--no-prefect")
    assert again.returncode == 2, again.stdout + again.stderr
