"""Batches of a microbatch model that fail: what is said of them, and what is tried again."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from textwrap import dedent

from tests.support.project import Scratch


def batches(begin: date, fault: str) -> str:
    """A model that counts the attempts of its batches; `fault` is SQL for the value of a batch."""
    return dedent(f"""
        {{{{ config(
            materialized='incremental', incremental_strategy='microbatch', event_time='at',
            batch_size='day', begin='{begin}', unique_key='n',
        ) }}}}
        select at, n, nextval(('attempts_' || n)::regclass) as attempt, {fault} as value
        from {{{{ ref('events') }}}}
    """)


def test_failed_batches_are_named_classified_and_tried_again_alone(scratch: Scratch) -> None:
    # Four days, up to today; the first invocation that sees a day counts it, also where it fails.
    days = [datetime.now(UTC).date() - timedelta(days=n) for n in (3, 2, 1, 0)]
    events = " union all ".join(
        f"select timestamp '{day} 12:00' as at, {n} as n" for n, day in enumerate(days)
    )
    (scratch.folder / "dbt" / "models" / "doubled.sql").unlink()
    scratch.model("events", "{{ config(materialized='table', event_time='at') }} " + events)
    scratch.query(
        "".join(f"create sequence public.attempts_{n};" for n in range(4))
        + "create function public.fails_once(n int) returns int as $$ begin "
        "if n = 1 and (select last_value from public.fails) < 2 then "
        "perform nextval('public.fails'); "
        "raise exception 'made up' using errcode = '40001'; end if; return n; "
        "end $$ language plpgsql; create sequence public.fails start 1;"
        "select nextval('public.fails')",
        scratch.database,
    )
    scratch.model("batches", batches(days[0], "public.fails_once(n)"))
    arguments = ("--no-prefect", "--skip", "docs", "--full-refresh")

    done = scratch.run_pipeline(*arguments, MILLRACE_STAGES__DBT_RUN__RETRY_DELAY_SECONDS="0.1")

    assert done.returncode == 0, done.stdout + done.stderr
    said = f"PARTIAL SUCCESS (3/4): batch {days[1]}: Database Error made up"
    assert said in done.stderr
    assert "Attempt 2 runs 1 of 3 nodes." in done.stderr
    rows = scratch.query("select n, attempt from scratch.batches order by n", scratch.database)
    assert [n for n, _ in rows] == [0, 1, 2, 3], "a batch of the first attempt was lost"
    assert [attempt for _, attempt in rows] == [1, 2, 1, 1], "only the failed batch ran again"

    scratch.model("batches", batches(days[0], "10 / (n - 2)"))
    done = scratch.run_pipeline(*arguments)

    assert done.returncode == 1
    cause = "First cause (code), model batches: PARTIAL SUCCESS (3/4): batch "
    assert f"{cause}{days[2]}: Database Error division by zero" in done.stderr
    assert f"--event-time-start {days[2]} --event-time-end {days[3]}" in done.stderr
    assert "Attempt 2" not in done.stderr
    results = scratch.local / "state" / "targets" / "scratch" / "run_results.json"
    (failed,) = (
        each for each in json.loads(results.read_text())["results"]
        if each["unique_id"] == "model.scratch.batches"
    )  # fmt: skip
    assert f"batches_{days[2]}.sql" in done.stderr, "the SQL of the batch that failed"
    assert "n - 2" in failed["compiled_code"]
    assert failed["status"] == "partial success"
    assert failed["millrace"]["cause"] == "code"
