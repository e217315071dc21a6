# ruff: noqa: T201 # a script prints
"""Seeded faults: edits that lose rows, leak secrets or hide failures, and the tests that see them.

    uv run python tests/mutations.py [NAME...]     check all faults, or the named ones
    uv run python tests/mutations.py --list        print the faults and their tests

Each fault replaces one text in one file of a copy of the project. The named tests run in that copy
and must fail. A fault that they do not see survives, and the exit code is 1. Before the faults, the
same tests must pass on an unchanged copy. The nightly workflow runs all of them;
`tests/test_mutations.py` checks in seconds that every fault still applies.

When a fault no longer applies because the code changed, edit it so that it breaks the new code in
the same way. When a test is renamed, correct its name here.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.project import NOT_IN_A_CLONE, REPOSITORY

# pytest's exit code when tests ran and some failed. Others, such as 2 (interrupted or a module that
# does not import) and 4 (no such test), say nothing about the fault.
TESTS_FAILED = 1
# Longer than the tests of any fault.
TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Fault:
    """An edit that at least one of its tests must notice.

    Attributes:
        effect: what goes wrong, in one line.
        file: path in the project.
        old: text that occurs exactly once in the file.
        new: text that replaces it.
        tests: pytest's names of the tests, under `tests/`.
        says: for a fault that fails a fixture of the tests, such as the quickstart: text of its
            error. Any other failure of a fixture is no catch: a server may not have started.
    """

    name: str
    effect: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    says: str = ""


FAULTS = (
    # Rows: lost, loaded twice, or not removed.
    Fault(
        "rest-only-first-page",
        "A REST source loads the first page of an answer and drops the others.",
        "prefect_flows/ingest/rest/client.py",
        "        yield get_rows(page.response, rows)\n",
        "        yield get_rows(page.response, rows)\n        break\n",
        (
            "prefect_flows/ingest/test_rest_client.py::test_a_redirect_on_the_same_address_is_followed",
        ),
    ),
    Fault(
        "rest-changed-shape-is-empty",
        "An API that renames the field of its rows loads nothing, without an error.",
        "prefect_flows/ingest/rest/client.py",
        '        raise unexpected_shape_error(response, f"{rows!r} is not a list of objects")\n',
        "        return Page([], {})\n",
        ("prefect_flows/ingest/test_rest_client.py::test_another_shape_is_not_an_empty_page",),
    ),
    Fault(
        "killed-load-stays",
        "Rows of a load that was killed stay and are counted twice by the next load.",
        "prefect_flows/ingest/orphaned_loads.py",
        '        client.execute_sql(f"delete {orphaned_rows}", since)\n',
        "        return int(rows)\n",
        (
            "prefect_flows/ingest/test_orphaned_loads.py"
            "::test_only_rows_of_loads_that_never_completed_go[postgres]",
        ),
    ),
    Fault(
        "killed-load-of-a-slow-clock-stays",
        "Rows of a killed load stay when its machine's clock was behind.",
        "prefect_flows/ingest/orphaned_loads.py",
        "{float(newest) - MAX_CLOCK_SKEW_SECONDS:.6f}",
        "{float(newest):.6f}",
        (
            "prefect_flows/ingest/test_orphaned_loads.py"
            "::test_only_rows_of_loads_that_never_completed_go[postgres]",
        ),
    ),
    Fault(
        "retried-load-adds-twice",
        "A retry of a load does not remove what the failed attempt left half loaded.",
        "prefect_flows/ingest/source_load.py",
        "[*self._incomplete_tables, STATE_TABLE]",
        "[STATE_TABLE]",
        (
            "prefect_flows/sources/test_sql__database.py"
            "::test_a_load_that_failed_half_way_goes_on_from_what_was_extracted",
        ),
    ),
    Fault(
        "encoded-batch-loses-its-end",
        "Long rows are sent to Postgres without the last part of each batch.",
        "prefect_flows/ingest/destinations/postgres_copy.py",
        "range(0, len(batch), rows)",
        "range(0, len(batch) - rows + 1, rows)",
        (
            "prefect_flows/ingest/test_destination_postgres.py::test_long_rows_are_encoded_a_few_at_a_time",
        ),
    ),
    Fault(
        "inbox-loses-the-last-files",
        "The inbox marks small files as loaded and does not load their rows.",
        "prefect_flows/sources/files__inbox/table_loader.py",
        "spool.take_finished_parts(last=True)",
        "spool.finished()",
        (
            "prefect_flows/sources/test_files__inbox.py"
            "::test_new_files_are_loaded_once_by_folder_or_by_name",
        ),
    ),
    Fault(
        "inbox-takes-unfinished-files",
        "The inbox loads a file that is still being written.",
        "prefect_flows/sources/files__inbox/table_loader.py",
        "if age < self.options.min_age_seconds:",
        "if age < 0:",
        (
            "prefect_flows/sources/test_files__inbox.py"
            "::test_files_that_are_being_written_are_left_for_the_next_run",
        ),
    ),
    Fault(
        "inbox-hides-a-malformed-file",
        "A malformed file goes to quarantine, and neither the log nor the record says so.",
        "prefect_flows/sources/files__inbox/table_loader.py",
        '        reject(self.table, where=f"{self.inbox.url}/{file.name}{at}", why=fault.why)\n',
        "        del at\n",
        (
            "prefect_flows/sources/test_files__inbox.py"
            "::test_a_malformed_file_is_refused_whole_and_taken_when_it_is_fixed",
        ),
    ),
    Fault(
        "cursor-skips-equal-values",
        "An incremental load of a table skips late rows with the cursor's last value.",
        "prefect_flows/sources/sql__database/readers/base.py",
        "place >= value if since.is_inclusive else place > value",
        "place > value",
        (
            "prefect_flows/sources/test_sql__database.py"
            "::test_a_cursor_reads_only_what_is_new_and_merges_it",
        ),
    ),
    Fault(
        "late-flights-are-lost",
        "A file with more old rows than were loaded passes, and these rows are never loaded.",
        "prefect_flows/sources/nyc__flights/source.py",
        "if old != known:",
        "if old < known:",
        (
            "prefect_flows/sources/test_nyc__flights.py"
            "::test_rows_that_came_late_are_refused_until_all_is_loaded_again",
        ),
    ),
    Fault(
        "split-search-has-a-gap",
        "A GitHub search that is split in two misses one second between the halves.",
        "prefect_flows/sources/github__trending/source.py",
        "middle + second, self.end",
        "middle + 2 * second, self.end",
        (
            "prefect_flows/sources/test_github__trending.py"
            "::test_the_halves_of_a_search_meet_without_a_gap",
        ),
    ),
    Fault(
        "youtube-spends-one-unit-too-many",
        "A YouTube load makes one call more than its quota allows.",
        "prefect_flows/sources/youtube__channels/quota.py",
        "if self.spent + UNITS_PER_CALL > self.budget:",
        "if self.spent > self.budget:",
        (
            "prefect_flows/sources/test_youtube__channels.py"
            "::test_a_budget_ends_a_load_and_the_next_goes_on_from_there",
        ),
    ),
    # Failures: hidden, retried in vain, not retried, of the wrong class.
    Fault(
        "deadlock-is-not-transient",
        "A deadlock (SQLSTATE 40P01) fails the run instead of being retried.",
        "prefect_flows/core/failure_class.py",
        '"40P01": FailureClass.TRANSIENT',
        '"40P01": FailureClass.CODE',
        (
            "prefect_flows/core/test_failure_class.py::test_a_code_raised_by_postgres[40P01-transient]",
        ),
    ),
    Fault(
        "bigquery-rate-limit-is-not-transient",
        "A rate limit of BigQuery fails the run instead of being retried.",
        "prefect_flows/core/failure_class.py",
        '"rateLimitExceeded": FailureClass.TRANSIENT',
        '"rateLimitExceeded": FailureClass.CODE',
        (
            "prefect_flows/core/test_failure_class_bigquery.py::test_a_call_that_is_answered_with_an_error",
        ),
    ),
    Fault(
        "every-error-is-retried",
        "A stage retries errors that no retry can solve.",
        "prefect_flows/runtime/stages.py",
        "isinstance(error, MillraceError) and error.retryable",
        "isinstance(error, MillraceError)",
        (
            "prefect_flows/runtime/test_stages.py::test_an_error_that_cannot_pass_is_not_tried_again",
        ),
    ),
    Fault(
        "one-retry-too-few",
        "A stage gives up one retry early.",
        "prefect_flows/runtime/stages.py",
        "stop_after_attempt(policy.retries + 1)",
        "stop_after_attempt(policy.retries)",
        (
            "prefect_flows/runtime/test_stages.py"
            "::test_each_retry_comes_later_than_the_one_before_and_not_on_the_dot",
        ),
    ),
    Fault(
        "stage-timeout-is-ignored",
        "A stage runs on after its timeout.",
        "prefect_flows/core/interrupts.py",
        "        if interrupts.stopped.wait(seconds):\n",
        "        if interrupts.stopped.wait():\n",
        (
            "prefect_flows/runtime/test_stages.py::test_it_stops_the_stage_and_leaves_the_handler_as_it_was",
        ),
    ),
    Fault(
        "daily-quota-is-waited-for",
        "A REST source waits for a quota that only the next day brings back.",
        "prefect_flows/ingest/rest/responses.py",
        "if status not in {403, 429, 503} or reason in DAILY_LIMIT_REASONS:",
        "if status not in {403, 429, 503}:",
        ("prefect_flows/ingest/test_rest_client.py::test_a_daily_quota_is_not_waited_for",),
    ),
    Fault(
        "failed-source-is-hidden",
        "A run passes although one of its sources failed.",
        "prefect_flows/ingest/run_sources.py",
        "                failed[source] = error\n",
        "",
        (
            "prefect_flows/ingest/test_sources_of_a_run.py::test_one_that_fails_does_not_hold_up_the_other",
        ),
    ),
    Fault(
        "failed-node-is-hidden",
        "A stage passes although nodes failed.",
        "prefect_flows/transform/dbt_stage.py",
        "            raise self._failed(failed)\n",
        "            return self.record()\n",
        (
            "prefect_flows/test_pipeline.py"
            "::test_a_failing_test_fails_the_run_and_is_not_tried_again",
        ),
    ),
    Fault(
        "commands-exit-with-0",
        "A command that fails exits with code 0.",
        "prefect_flows/core/command_line.py",
        "raise typer.Exit(error.exit_code) from error",
        "raise typer.Exit(0) from error",
        (
            "prefect_flows/reporting/test_serve.py"
            "::test_a_port_that_is_taken_is_an_error_with_its_fix",
        ),
    ),
    Fault(
        "node-retried-one-time-too-few",
        "A node that lost its connection is retried one time too few.",
        "prefect_flows/transform/results.py",
        "r.attempts <= retries",
        "r.attempts < retries",
        (
            "prefect_flows/transform/test_results.py"
            "::test_each_type_of_node_has_its_own_number_of_retries",
        ),
    ),
    Fault(
        "retry-builds-on-a-failed-parent",
        "A retry builds nodes whose parent failed for good, from yesterday's rows.",
        "prefect_flows/transform/results.py",
        "(transient | skipped) - blocked",
        "transient | skipped",
        (
            "prefect_flows/transform/test_results.py"
            "::test_what_lies_behind_a_lasting_failure_stays_skipped",
        ),
    ),
    # Runs: locks, order, resume, state.
    Fault(
        "lock-is-not-taken",
        "A run with --no-wait starts while another run of the target is under way.",
        "prefect_flows/runtime/target_lock.py",
        "    if file is None:\n",
        "    if file is None or not parameters.wait:\n",
        (
            "prefect_flows/runtime/test_target_lock.py"
            "::test_a_second_run_of_a_target_fails_and_a_run_of_another_target_begins",
        ),
    ),
    Fault(
        "lease-is-not-taken",
        "Two machines run the same target at the same time.",
        "prefect_flows/runtime/prefect_runtime.py",
        "                    stack.enter_context(self._slot(name))\n",
        "",
        ("prefect_flows/test_pipeline.py::test_a_run_holds_its_target_until_it_ends",),
    ),
    Fault(
        "tests-run-before-models",
        "The tests run before the models that they test.",
        "prefect_flows/runtime/parameters.py",
        '    "run": (["run"], ("model",)),\n    "test": (["test"], ("test", "unit_test")),\n',
        '    "test": (["test"], ("test", "unit_test")),\n    "run": (["run"], ("model",)),\n',
        ("prefect_flows/test_pipeline.py::test_stages_are_tasks_and_summaries_are_artifacts",),
    ),
    Fault(
        "old-status-wins",
        "run_results.json has the first attempt's status of a node that passed at its second.",
        "prefect_flows/transform/dbt_stage.py",
        "self.documents[unique_id] = process_run_result(result).to_dict(omit_none=False)",
        "self.documents.setdefault(unique_id, process_run_result(result).to_dict())",
        ("prefect_flows/test_pipeline.py::test_a_passing_fault_is_retried_with_what_is_left_only",),
    ),
    Fault(
        "partial-run-counts-as-whole",
        "A run of some models becomes the base of --changed, which then skips changed models.",
        "prefect_flows/pipeline_run.py",
        'if ended == "passed" and self.parameters.is_full_run and not self.left_out:',
        'if ended == "passed":',
        (
            "prefect_flows/test_changed.py"
            "::test_only_what_changed_since_the_last_good_run_and_what_depends_on_it",
        ),
    ),
    Fault(
        "skipped-counts-as-done",
        "A node that was skipped counts as done: a resumed run never builds it.",
        "prefect_flows/transform/results.py",
        "return not self.failed and self.status != SKIPPED",
        "return not self.failed",
        (
            "prefect_flows/transform/test_node_hashes.py"
            "::test_only_what_ended_well_with_the_same_code_is_carried_over",
        ),
    ),
    Fault(
        "resume-ignores-changed-code",
        "A resumed run skips nodes whose code has changed since.",
        "prefect_flows/transform/resume.py",
        'if code.get(unique_id) == entry["code"]:',
        'if entry["code"]:',
        (
            "prefect_flows/transform/test_node_hashes.py"
            "::test_only_what_ended_well_with_the_same_code_is_carried_over",
        ),
    ),
    Fault(
        "hash-ignores-nested-macros",
        "A resumed run skips nodes when a macro that their macro calls has changed.",
        "prefect_flows/transform/node_hashes.py",
        "waiting += [*_macro_ids(macro), own]",
        "waiting += [own]",
        (
            "prefect_flows/transform/test_node_hashes.py"
            "::test_each_change_reaches_what_is_behind_it_and_nothing_else",
        ),
    ),
    Fault(
        "hash-ignores-variables",
        "A changed variable of the project or the environment counts as unchanged.",
        "prefect_flows/transform/node_hashes.py",
        "values = self._read_values(node, _find_reads(code) | read_by_macros)",
        "values: list[tuple[Read, Any]] = []",
        (
            "prefect_flows/transform/test_node_hashes.py"
            "::test_a_change_outside_of_a_node_s_own_text_reaches_it",
        ),
    ),
    Fault(
        "failed-run-is-resumed",
        "A run resumes one that failed by itself, and does not load its sources again.",
        "prefect_flows/state/runs.py",
        'frozenset({None, "cancelled", "timed out"})',
        'frozenset({None, "cancelled", "timed out", "failed"})',
        ("prefect_flows/state/test_runs.py::test_none_that_ended_by_itself",),
    ),
    Fault(
        "prune-removes-the-last-run",
        "Pruning removes the only run of a target, which the next run may have to resume.",
        "prefect_flows/state/runs.py",
        "for name in names[:-1] if name",
        "for name in names if name",
        ("prefect_flows/state/test_runs.py::test_pruned_by_count_and_by_age_and_never_the_last",),
    ),
    Fault(
        "state-is-not-written-atomically",
        "A reader of the state store sees half of a file.",
        "prefect_flows/core/files.py",
        "        draft.replace(file)\n",
        "        file.write_bytes(data)\n",
        ("prefect_flows/state/test_store.py::test_readers_see_a_file_whole_or_not_at_all",),
    ),
    Fault(
        "full-disk-leaves-drafts",
        "A write that fails leaves a draft behind, which fills the disk further.",
        "prefect_flows/core/files.py",
        "        draft.unlink(missing_ok=True)\n",
        "        pass\n",
        (
            "prefect_flows/core/test_files.py::test_a_write_that_fails_leaves_the_old_file_and_no_draft",
        ),
    ),
    Fault(
        "login-in-the-state-url",
        "A login in the URL of the state store is stored and shown.",
        "prefect_flows/state/state_url.py",
        'if separator and "@" in rest:',
        'if separator and ":@" in rest:',
        (
            "prefect_flows/state/test_state_url.py::"
            "test_what_is_none_is_refused_before_anything_is_opened",
        ),
    ),
    Fault(
        "run-before-a-damaged-one-is-resumed",
        "A run goes on from one whose tables a later one has changed.",
        "prefect_flows/state/runs.py",
        "    except CorruptFileError as error:\n        warn(",
        "    except KeyError as error:\n        warn(",
        (
            "prefect_flows/state/test_damaged.py::"
            "test_a_run_whose_header_is_damaged_is_not_resumed_nor_one_before_it",
        ),
    ),
    Fault(
        "dbts-child-keeps-the-secrets",
        "A child process of dbt holds the warehouse's password in its environment.",
        "prefect_flows/transform/session.py",
        "            resource_tracker.ensure_running()",
        "            pass",
        (
            "prefect_flows/core/test_files.py::"
            "test_no_child_keeps_the_secrets_of_a_command_that_has_ended",
        ),
    ),
    Fault(
        "journal-of-a-bucket-loses-its-order",
        "The journal in a bucket is read in the wrong order after its ninth entry.",
        "prefect_flows/state/store.py",
        "{part:06d}",
        "{part}",
        (
            "prefect_flows/state/test_store.py"
            "::test_a_journal_keeps_its_order_and_leaves_out_what_was_cut_off[s3]",
        ),
    ),
    # Publishing: what readers see.
    Fault(
        "publish-in-spite-of-a-failed-test",
        "Marts are published although a test of one of them failed.",
        "prefect_flows/publish/models.py",
        "        if not result.failed:\n            continue\n        # What a test reads",
        "        if not result.failed or result.resource_type in _TESTS:\n            continue\n"
        "        # What a test reads",
        (
            "prefect_flows/publish/test_models.py::test_a_failure_blocks_the_groups_that_it_touches",
            "prefect_flows/publish/test_publish_run.py"
            "::test_a_failed_test_keeps_the_published_rows[run_then_test]",
        ),
    ),
    Fault(
        "publish-view-stays-a-view",
        "A mart that is a view is built as one, whose definition names the tables of one slot.",
        "prefect_flows/publish/relocation.py",
        "        if is_view(node):\n",
        "        if False:\n",
        ("prefect_flows/publish/test_publish_run.py::test_marts_are_published_after_their_tests",),
    ),
    Fault(
        "publish-view-reads-build-schema",
        "A view that is not published may read a mart, and shows its untested rows.",
        "prefect_flows/publish/models.py",
        "            if parent in published:\n",
        "            if parent in published and str(node.config.materialized) != 'view':\n",
        (
            "prefect_flows/publish/test_views_of_published.py"
            "::test_a_view_of_a_published_model_is_found_also_behind_an_ephemeral_one",
        ),
    ),
    Fault(
        "publish-deleted-rows-come-back",
        "Rows that a failed run deleted in the build slot are missing in the next version.",
        "prefect_flows/publish/postgres/sync.py",
        "        if tg_op <> 'INSERT' then\n",
        "        if tg_op = 'UPDATE' then\n",
        (
            "prefect_flows/publish/test_postgres.py"
            "::test_a_failed_attempt_in_the_build_slot_is_undone",
        ),
    ),
    Fault(
        "publish-rows-of-a-failed-run",
        "Rows that a failed run wrote into the build slot are published by the next run.",
        "prefect_flows/publish/postgres/sync.py",
        "as published using changed_keys as changed where {matches}",
        "as published using changed_keys as changed where {matches} and false",
        (
            "prefect_flows/publish/test_postgres.py"
            "::test_a_failed_attempt_in_the_build_slot_is_undone",
        ),
    ),
    Fault(
        "publish-without-a-lock-timeout",
        "The switch waits for locks while readers wait for it, and Postgres cancels one of them.",
        "prefect_flows/publish/postgres/switch.py",
        "    _set_timeouts(cursor, min(lock_seconds, seconds), seconds)\n",
        "    _set_timeouts(cursor, 0, 0)\n",
        (
            "prefect_flows/publish/test_postgres.py"
            "::test_readers_that_lock_in_another_order_are_never_cancelled",
        ),
    ),
    Fault(
        "publish-forgets-the-previous-version",
        "The version before cannot be shown again.",
        "prefect_flows/publish/postgres/warehouse.py",
        "previous_run=state.live_run,",
        "previous_run=None,",
        (
            "prefect_flows/publish/test_postgres.py"
            "::test_the_last_publication_can_be_undone_and_shown_again",
        ),
    ),
    Fault(
        "publish-drops-grants",
        "Readers lose the access that dbt grants in the model's config.",
        "prefect_flows/publish/postgres/switch.py",
        "granted=grants | granted,",
        "granted=grants,",
        (
            "prefect_flows/publish/test_postgres.py"
            "::test_grants_of_dbt_come_and_go_and_manual_ones_stay",
            "prefect_flows/publish/test_postgres.py::test_readers_need_no_privilege_on_the_slots",
        ),
    ),
    # Secrets and personal data.
    Fault(
        "api-repeats-the-secret",
        "An error message of an API that repeats the token shows it in the log.",
        "prefect_flows/ingest/rest/transport.py",
        'return text.replace(self._secret, "***") if self._secret else text',
        "return text",
        (
            "prefect_flows/ingest/test_rest_client.py::test_what_does_not_pass_in_time_may_pass_later",
        ),
    ),
    Fault(
        "secret-follows-a-redirect",
        "The token of an API is sent to another server that the API points to.",
        "prefect_flows/ingest/rest/transport.py",
        'if get_origin(request.url or "") != self._origin:',
        "if request.url is None:",
        (
            "prefect_flows/ingest/test_rest_client.py::test_the_secret_does_not_follow_to_another_address",
        ),
    ),
    Fault(
        "receiver-shows-its-secret",
        "The log shows the webhook's address, which is a secret, when it refuses a notification.",
        "prefect_flows/notifications/recipients.py",
        'message = message.replace(secret, "…")',
        "message = message.strip()",
        (
            "prefect_flows/notifications/test_receivers.py"
            "::test_a_refusal_does_not_show_the_address_of_the_webhook",
        ),
    ),
    Fault(
        "password-in-a-plain-field",
        "The password of a warehouse can be read from a block without asking for secrets.",
        "infrastructure/setup_profiles/desired.py",
        '"extras": (target.dbt_options or {}) | _given(target, "sslmode", "publish"),\n',
        '"extras": _given(target, "sslmode", "publish")\n'
        '                | ({"password": password.get_secret_value()} if password else {}),\n',
        (
            "infrastructure/setup_profiles/test_setup.py"
            "::test_blocks_are_references_and_a_plain_read_shows_no_secret",
        ),
    ),
    Fault(
        "plan-prints-secrets",
        "The plan of setup prints a password that changes.",
        "infrastructure/prefect_resources/reconcile/plan.py",
        'return str(value) if kind.is_printable(path, value) else "********"',
        "return str(value)",
        (
            "infrastructure/setup_profiles/test_setup.py"
            "::test_a_change_is_planned_masked_checked_and_applied",
        ),
    ),
    Fault(
        "secrets-folder-is-open",
        "Other users of the machine can read the secrets that Compose mounts.",
        "infrastructure/platforms/docker/secrets.py",
        "FOLDER_MODE = 0o700",
        "FOLDER_MODE = 0o755",
        (
            "infrastructure/platforms/docker/test_containers_static.py"
            "::test_the_secrets_are_read_by_containers_and_reached_by_their_owner_alone",
        ),
    ),
    Fault(
        "value-in-a-message",
        "The report shows a number from a row with personal data.",
        "prefect_flows/reporting/run_report/redaction.py",
        "|(?<!\\w)[-+]?\\d",
        "",
        ("prefect_flows/reporting/test_messages.py::test_no_number_of_a_row_is_left",),
    ),
    Fault(
        "renamed-column-is-shown",
        "The report shows a personal column that the query renames.",
        "prefect_flows/reporting/run_report/pii.py",
        "                names |= _tainted_by(projection, names, relations)\n",
        "                _tainted_by(projection, names, relations)\n",
        (
            "prefect_flows/reporting/test_pii.py"
            "::test_personal_columns_are_followed_through_the_query",
        ),
    ),
    # Reports and notifications.
    Fault(
        "report-is-not-escaped",
        "Text from the warehouse becomes HTML in the report.",
        "prefect_flows/reporting/templates.py",
        "autoescape=True",
        "autoescape=False",
        ("prefect_flows/reporting/test_html_page.py::test_text_of_users_is_text_everywhere",),
    ),
    Fault(
        "failed-run-is-the-last-good-one",
        "The page shows a failed run as the last good one.",
        "prefect_flows/state/run_summary.py",
        'if summary.outcome == "passed" and summary.whole:',
        "if summary.whole:",
        (
            "prefect_flows/reporting/test_run_summary.py"
            "::test_a_run_that_failed_leaves_the_last_good_one_and_what_was_known",
        ),
    ),
    Fault(
        "partial-run-is-the-last-good-one",
        "A run of a part of the project counts as the last good one.",
        "prefect_flows/state/run_summary.py",
        'if summary.outcome == "passed" and summary.whole:',
        'if summary.outcome == "passed":',
        (
            "prefect_flows/reporting/test_run_summary.py"
            "::test_a_run_of_a_part_leaves_the_last_good_one",
        ),
    ),
    Fault(
        "gateway-password-in-the-log",
        "The log shows the password of the Pushgateway when it refuses the metrics.",
        "prefect_flows/core/passwords.py",
        'return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()',
        "return parts.geturl()",
        (
            "prefect_flows/reporting/test_metrics.py"
            "::test_a_gateway_that_fails_is_reported_without_its_password",
        ),
    ),
    Fault(
        "every-file-is-served",
        "The server of the pages serves any file of the state store.",
        "prefect_flows/reporting/overview/serve.py",
        "store.read(requested) if _PAGES.fullmatch(requested) else None",
        "store.read(requested)",
        ("prefect_flows/reporting/test_serve.py::test_nothing_else_is",),
    ),
    Fault(
        "resumed-bytes-are-billed-again",
        "The summary of a resumed run bills what the interrupted run read.",
        "prefect_flows/reporting/run_report/summary.py",
        "executed = [node for node in nodes if not node.resumed]",
        "executed = list(nodes)",
        (
            "prefect_flows/reporting/test_run_summary.py"
            "::test_of_what_was_resumed_nothing_is_billed_twice",
        ),
    ),
    Fault(
        "known-incident-is-told-again",
        "Owners get a notification for the same incident after every run.",
        "prefect_flows/state/incidents.py",
        "new=[incident for incident in seen if incident.id not in known]",
        "new=list(seen)",
        (
            "prefect_flows/notifications/test_incidents.py"
            "::test_what_is_seen_again_is_counted_and_keeps_its_beginning",
        ),
    ),
    Fault(
        "sent-notification-is-sent-again",
        "A notification that was sent stays in the outbox, and the next run sends it again.",
        "prefect_flows/notifications/outbox.py",
        "                    del waiting.unsent[thread.receiver]\n",
        "                    continue\n",
        (
            "prefect_flows/notifications/test_outbox.py"
            "::test_what_waits_is_kept_and_sent_in_order_saying_that_it_is_late",
        ),
    ),
    # Setup, deployments, backups, health.
    Fault(
        "drift-is-not-seen",
        "Setup does not see a field that somebody added to a block by hand.",
        "infrastructure/prefect_resources/reconcile/plan.py",
        "list(desired) + [key for key in found if path and key not in desired]",
        "list(desired)",
        (
            "infrastructure/setup_profiles/test_setup.py"
            "::test_a_field_that_somebody_added_by_hand_is_drift",
        ),
    ),
    Fault(
        "orphans-are-removed-unasked",
        "Setup removes blocks without --prune.",
        "infrastructure/prefect_resources/reconcile/plan.py",
        "if prune and step.action is Action.ORPHANED and",
        "if step.action is Action.ORPHANED and",
        (
            "infrastructure/setup_profiles/test_setup.py"
            "::test_orphans_are_named_and_removed_only_when_asked",
        ),
    ),
    Fault(
        "prune-removes-blocks-of-others",
        "Setup with --prune removes blocks that somebody else made.",
        "infrastructure/setup_profiles/block_resources.py",
        "if str(block.name).startswith(self.prefix) and self.mark in str(block.name)",
        "if self.mark in str(block.name)",
        ("infrastructure/setup_profiles/test_setup.py::test_prune_leaves_what_setup_did_not_make",),
    ),
    Fault(
        "crashed-run-is-healthy",
        "The health check calls a target healthy whose last run crashed.",
        "infrastructure/operate/health_check/evaluate_runs.py",
        'FAILED_STATES = ("FAILED", "CRASHED")',
        'FAILED_STATES = ("FAILED",)',
        (
            "infrastructure/operate/test_health_check_runs.py::test_how_the_last_run_ended_is_its_status",
        ),
    ),
    Fault(
        "switched-off-schedule-comes-back",
        "A deployment switches on a schedule that an operator switched off.",
        "infrastructure/prefect_resources/deployments/deployment_resources.py",
        "active=active.get(_text(create.schedule), True)",
        "active=True",
        (
            "infrastructure/prefect_resources/test_deployments.py::test_what_an_operator_switched_off_stays_off",
        ),
    ),
    Fault(
        "rollback-goes-forward",
        "A second rollback goes to the version that the first one left.",
        "infrastructure/prefect_resources/rollback/command.py",
        "before = versions[younger:] if to is None else [to]",
        "before = versions if to is None else [to]",
        (
            "infrastructure/prefect_resources/test_rollback_choice.py::test_it_goes_to_the_version_deployed_before",
        ),
    ),
    Fault(
        "update-brings-the-example-back",
        "An update of the engine adds files of the example to a project that replaced it.",
        "infrastructure/update/merge.py",
        "        _take(tree, update.head, own_parts)\n",
        "",
        (
            "infrastructure/update/test_update.py::test_an_adopted_clone_gets_the_engine_and_nothing_of_the_example",
        ),
    ),
    Fault(
        "backup-keeps-the-oldest",
        "--keep removes the newest backups and keeps the oldest.",
        "infrastructure/operate/backup/archive.py",
        "old = ours[:-keep]",
        "old = ours[keep:]",
        ("infrastructure/operate/test_backup.py::test_keep_removes_the_oldest_of_its_own_only",),
    ),
    Fault(
        "backup-checksum-is-not-compared",
        "A backup that was changed is restored.",
        "infrastructure/operate/backup/archive.py",
        "if sums[name] != digests[name]",
        "if name not in sums",
        ("infrastructure/operate/test_backup.py::test_a_manifest_that_was_changed_is_seen",),
    ),
    Fault(
        "health-check-passes-when-something-is-down",
        "The health check exits with 0 although the state store does not answer.",
        "infrastructure/operate/health_check/command.py",
        "        raise typer.Exit(EXIT_FAILED)\n",
        "        raise typer.Exit\n",
        ("infrastructure/operate/test_health_check.py::test_a_state_store_that_does_not_answer",),
    ),
    Fault(
        "automations-of-others-are-removed",
        "Setup with --prune removes automations that somebody else made.",
        "infrastructure/prefect_resources/automations/automation_resources.py",
        "if TAG in each.tags and each.name.startswith(tuple(self._prefixes))",
        "if TAG in each.tags",
        (
            "infrastructure/prefect_resources/test_automations.py"
            "::test_changes_are_seen_and_others_are_left_alone",
        ),
    ),
    Fault(
        "missing-block-is-not-seen",
        "Setup makes a work pool whose jobs refer to a block that does not exist.",
        "infrastructure/prefect_resources/work_pools/block_references.py",
        '        return "no such block"\n',
        "        return None\n",
        (
            "infrastructure/prefect_resources/test_work_pools.py"
            "::test_missing_blocks_are_listed_with_their_commands_and_nothing_is_made",
        ),
    ),
    Fault(
        "secret-parameter-is-not-seen",
        "The check of sources passes a deployment that has a secret in the open.",
        "infrastructure/ci/check_sources/deployments.py",
        "for name in sorted(hidden & set(each.parameters)):",
        "for name in sorted(hidden - set(each.parameters)):",
        ("infrastructure/ci/test_check_sources.py::test_a_key_in_the_open",),
    ),
    Fault(
        "token-in-an-image-label",
        "The image has the token of git's remote in a label.",
        "infrastructure/delivery/build_image.py",
        '_PASSWORD_IN_URL.sub("", source) if "://" in source else ""',
        'source if "://" in source else ""',
        ("infrastructure/delivery/test_build_image.py::test_a_label_carries_no_token",),
    ),
    Fault(
        "failed-release-leaves-its-files",
        "A release that git refuses leaves the new version in the files.",
        "infrastructure/delivery/release/command.py",
        "        for file, text in before.items():\n            file.write_text(text)\n",
        "",
        (
            "infrastructure/delivery/test_release.py"
            "::test_a_commit_that_git_refuses_leaves_the_files_as_they_were",
        ),
    ),
    Fault(
        "two-deliveries-at-a-time",
        "Two deliveries to a host run at the same time.",
        "infrastructure/delivery/on_host/folder.py",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        (
            "infrastructure/delivery/test_on_host.py::test_the_second_delivery_is_refused_and_names_the_first",
        ),
    ),
    Fault(
        "tag-is-delivered",
        "A delivery takes an image by a tag, which may be another image tomorrow.",
        "infrastructure/delivery/ssh.py",
        "@(?P<digest>sha256:[0-9a-f]{64})",
        "(?P<digest>(@sha256:[0-9a-f]{64})?)",
        ("infrastructure/delivery/test_vps.py::test_any_other_image_is_refused",),
    ),
    Fault(
        "socket-is-open-to-other-users",
        "Other users can connect to the embedded Postgres when its folder has a long path.",
        "infrastructure/local/postgres.py",
        "            _close_to_others(info.socket_dir, folder)\n",
        "            pass\n",
        ("infrastructure/local/test_local.py::test_a_path_too_long_for_a_socket_works",),
    ),
    # Pull requests.
    Fault(
        "open-pull-request-is-swept",
        "Pull requests beyond the first page count as closed, and the sweep drops their schemas.",
        "infrastructure/ci/pull_request/github.py",
        'url = answer.links.get("next", {}).get("url")',
        "url = None",
        (
            "infrastructure/ci/test_pull_request_github.py"
            "::test_open_pull_requests_are_listed_over_all_pages",
        ),
    ),
    Fault(
        "comment-is-written-twice",
        "A comment whose answer was lost is written again.",
        "infrastructure/ci/pull_request/github.py",
        'once=method == "POST"',
        "once=False",
        (
            "infrastructure/ci/test_pull_request_github.py"
            "::test_a_comment_whose_answer_was_lost_is_not_written_twice",
        ),
    ),
    Fault(
        "schema-of-another-owner-is-dropped",
        "The sweep drops a schema that belongs to another pull request.",
        "infrastructure/ci/pull_request/names.py",
        "return owner if schema == get_schema(owner.number) else None",
        "return owner",
        (
            "infrastructure/ci/test_pull_request_removal.py"
            "::test_the_sweep_drops_only_what_a_closed_pull_request_left",
        ),
    ),
    Fault(
        "schema-of-another-repository-is-dropped",
        "The sweep drops the schemas of another repository's pull requests.",
        "infrastructure/ci/pull_request/cleanup.py",
        "owner.repository is None or owner.repository.lower() != repository.lower()",
        "owner.repository is None",
        (
            "infrastructure/ci/test_pull_request_removal.py"
            "::test_the_sweep_drops_only_what_a_closed_pull_request_left",
        ),
    ),
    # SQL.
    Fault(
        "on-time-boundary",
        "A flight that is exactly 15 minutes late counts as on time.",
        "dbt/models/intermediate/flights/int_flights_classified.sql",
        "and arrival_delay_minutes < {{",
        "and arrival_delay_minutes <= {{",
        ("dbt/test_marts.py::test_documented_number",),
        says="only_an_arrival_can_be_on_time",
    ),
    Fault(
        "join-drops-flights",
        "Flights of planes that the registry does not list are lost.",
        "dbt/models/intermediate/flights/int_flights_matched.sql",
        "left join planes",
        "inner join planes",
        ("dbt/test_marts.py::test_fact_has_each_flight_of_the_file_once",),
        says="assert_fct_flights_matches_staging",
    ),
    Fault(
        "lookback-is-one-day-short",
        "The incremental run of the fact misses corrections of the first lookback day.",
        "dbt/models/marts/core/fct_flights.sql",
        "        flight_date >= (\n",
        "        flight_date > (\n",
        ("dbt/test_marts.py::test_fact_has_each_flight_of_the_file_once",),
        says="an_incremental_run_rewrites_the_lookback_days",
    ),
    Fault(
        "stars-of-the-first-day",
        "The mart shows a repository's stars of the first day instead of the last.",
        "dbt/models/marts/open_source/agg_trending_repositories.sql",
        "order by observed_date desc",
        "order by observed_date",
        ("dbt/test_models_of_rest_sources.py::test_trending_repositories_row_by_row[postgres]",),
        says="stars_are_counted_from_the_first_day_to_the_last",
    ),
    Fault(
        "surrogate-key-collides",
        "Two rows whose columns join to the same text get one key.",
        "dbt/macros/surrogate_key.sql",
        "\"'|'\"",
        "\"''\"",
        ("dbt/test_macros.py::test_rows_that_differ_have_different_keys",),
    ),
    # Batches of data tests.
    Fault(
        "batched-failure-becomes-a-warning",
        "A failure of a batched test and its warning change places.",
        "prefect_flows/transform/test_batching/statement.py",
        "    should_warn, should_error = (verdict",
        "    should_error, should_warn = (verdict",
        (
            "prefect_flows/transform/test_batching/test_statement.py::"
            "test_every_test_gets_the_values_of_its_own_statement",
        ),
    ),
    Fault(
        "batched-test-ignores-where",
        "Batched tests with the config `where` read all rows.",
        "prefect_flows/transform/test_batching/statement.py",
        '    return _Read(kind, match["source"], relation, expression, rest)',
        "    return _Read(kind, relation, relation, expression, rest)",
        (
            "prefect_flows/transform/test_batching/test_statement.py::"
            "test_every_test_gets_the_values_of_its_own_statement",
        ),
    ),
    Fault(
        "batched-test-ignores-limit",
        "A scan counts more rows than the config `limit` allows.",
        "prefect_flows/transform/test_batching/statement.py",
        "    elif test.fail_calc == COUNT_ROWS and test.limit is None:",
        "    elif test.fail_calc == COUNT_ROWS:",
        (
            "prefect_flows/transform/test_batching/test_statement.py::"
            "test_every_test_gets_the_values_of_its_own_statement",
        ),
    ),
    Fault(
        "batched-test-without-a-count-passes",
        "A batched test whose `fail_calc` returns null passes.",
        "prefect_flows/transform/test_batching/execution.py",
        "                self._run_alone(test.runner, finish)\n                continue\n",
        "                verdict = (0, False, False)\n",
        (
            "prefect_flows/transform/test_batching/test_batched_runs.py::"
            "test_a_statement_that_fails_is_split_until_its_culprits_are_alone",
        ),
    ),
    Fault(
        "batched-bytes-count-for-each-test",
        "The report counts the bytes of a batch once for each of its tests.",
        "prefect_flows/transform/test_batching/execution.py",
        "                share[key] = each + (index < more)",
        "                share[key] = amount",
        (
            "prefect_flows/transform/test_batching/test_batched_runs.py::"
            "test_the_shares_of_a_statement_add_up",
        ),
    ),
    Fault(
        "failed-test-is-reused",
        "A test that failed does not run again until its inputs change.",
        "prefect_flows/transform/reuse/plan.py",
        'PASSED = frozenset({"success", "pass", "no-op"})',
        'PASSED = frozenset({"success", "pass", "no-op", "fail"})',
        (
            "prefect_flows/transform/reuse/test_plan.py::test_what_did_not_pass_runs_until_it_passes",
        ),
    ),
    Fault(
        "loaded-rows-are-not-built",
        "Rows of a load in the same run count as old data.",
        "prefect_flows/transform/reuse/plan.py",
        "elif each in sources.loaded:",
        "elif False:",
        (
            "prefect_flows/transform/reuse/test_plan.py::test_new_rows_of_a_source_reach_all_nodes_behind_ephemeral_models_and_views",
        ),
    ),
    Fault(
        "removed-rows-are-not-built",
        "A load that only removed rows counts as one without changes.",
        "prefect_flows/transform/reuse/tracker.py",
        "bool(rows[source.identifier] or removed.get(source.identifier))",
        "bool(rows[source.identifier])",
        ("prefect_flows/transform/reuse/test_plan.py::test_loads",),
    ),
    Fault(
        "inputs-of-another-run-are-old",
        "A node is reused although a partial run has built its input.",
        "prefect_flows/transform/reuse/plan.py",
        "elif version != state.inputs[each]:",
        "elif False:",
        ("prefect_flows/transform/reuse/test_plan.py::test_an_input_that_another_run_has_built",),
    ),
    Fault(
        "changed-relation-is-reused",
        "A table whose rows were changed by hand is reused.",
        "prefect_flows/transform/reuse/plan.py",
        "elif relation != state.relation:",
        "elif False:",
        ("prefect_flows/transform/reuse/test_plan.py::test_code_seeds_and_relations",),
    ),
    Fault(
        "clock-in-a-branch-is-not-seen",
        "`current_date` in a branch of Jinja that was not compiled is not found.",
        "prefect_flows/transform/reuse/volatility.py",
        "if (found := VOLATILE_WORDS.search(code)) is not None:",
        'if (found := VOLATILE_WORDS.search("")) is not None:',
        ("prefect_flows/transform/reuse/test_volatility.py::test_names_in_code",),
    ),
    Fault(
        "undeclared-table-is-not-seen",
        "A table that a model names without source() is not found.",
        "prefect_flows/transform/reuse/volatile_sql.py",
        "if (schema, name) not in inputs:",
        "if False:",
        ("prefect_flows/transform/reuse/test_volatility.py::test_compiled_sql",),
    ),
    Fault(
        "blocked-mart-is-reused",
        "A mart that was built and not published is reused, and never published.",
        "prefect_flows/transform/reuse/tracker.py",
        "if i in self.plan.reasons and i not in incomplete",
        "if i in self.plan.reasons",
        (
            "prefect_flows/transform/reuse/test_reused_runs.py::test_only_what_reads_new_rows_is_built",
        ),
    ),
)


@contextmanager
def copied_project() -> Iterator[Path]:
    """A copy of the project in a temporary folder, as a fresh clone has it."""
    with tempfile.TemporaryDirectory(prefix="mutation-", ignore_cleanup_errors=True) as folder:
        yield Path(shutil.copytree(REPOSITORY, Path(folder, "millrace"), ignore=NOT_IN_A_CLONE))


def run_tests(
    project: Path, tests: list[str], seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run tests in a copy of the project, up to the first one that fails."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-x", "-q", "-p", "no:cacheprovider",
         # Of its own: each pytest of root closes the usual one to the user of embedded Postgres.
         f"--basetemp={project.parent / 'pytest'}",
         *(f"tests/{test}" for test in tests)],
        cwd=project, env=os.environ | {"PYTHONPATH": str(project)}, timeout=seconds,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip


def check(fault: Fault) -> tuple[bool, str]:
    """Apply a fault to a copy and run its tests: whether one notices it, and which or why not."""
    with copied_project() as project:
        file = project / fault.file
        text = file.read_text()
        if text.count(fault.old) != 1:
            return False, f"{fault.file} does not hold the text to replace exactly once"
        file.write_text(text.replace(fault.old, fault.new))
        try:
            done = run_tests(project, list(fault.tests), TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            return False, f"the tests did not end within {TIMEOUT_SECONDS} s"
    return judge(fault, done)


def judge(fault: Fault, done: subprocess.CompletedProcess[str]) -> tuple[bool, str]:
    """Whether pytest's output shows that a test noticed the fault; which one, or why not."""
    if done.returncode == 0:
        return False, "the tests pass"
    failed = re.search(r"^FAILED tests/(.+?)(?: - |$)", done.stdout, re.MULTILINE)
    error = re.search(r"^ERROR tests/(.+?)(?: - |$)", done.stdout, re.MULTILINE)
    if done.returncode == TESTS_FAILED and failed is not None:
        return True, failed[1]
    in_fixture = fault.says != "" and fault.says in done.stdout
    if done.returncode == TESTS_FAILED and error is not None and in_fixture:
        return True, f"{error[1]} (in a fixture)"
    return False, f"pytest ended with exit code {done.returncode}\n{done.stdout[-3000:]}"


def passes_unchanged(faults: list[Fault]) -> bool:
    """Run the tests of all faults on an unchanged copy; print the output where one fails."""
    tests = sorted({test for fault in faults for test in fault.tests})
    started = time.monotonic()
    with copied_project() as project:
        done = run_tests(project, tests)
    if done.returncode != 0:
        print(done.stdout)
    said = "pass" if done.returncode == 0 else f"end with exit code {done.returncode}"
    seconds = time.monotonic() - started
    print(f"{len(tests)} tests {said} on the unchanged project, {seconds:.0f} s", flush=True)
    return done.returncode == 0


def main() -> int:
    """Check the faults; 1 when one survives, 2 when the tests do not pass without a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="NAME", help="faults to check; all by default")
    parser.add_argument("--list", action="store_true", help="print the faults and their tests")
    given = parser.parse_args()
    unknown = set(given.names) - {fault.name for fault in FAULTS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; --list prints the names")
    faults = [fault for fault in FAULTS if not given.names or fault.name in given.names]
    if given.list:
        for fault in faults:
            print(f"{fault.name}\n  {fault.effect}\n  {fault.file}")
            print(*(f"  tests/{test}" for test in fault.tests), sep="\n")
        return 0
    if not passes_unchanged(faults):
        return 2
    survived = 0
    for fault in faults:
        started = time.monotonic()
        caught, said = check(fault)
        survived += not caught
        seconds = time.monotonic() - started
        outcome = "caught  " if caught else "SURVIVED"
        print(f"{outcome} {seconds:5.1f} s  {fault.name}  {said}", flush=True)
    print(f"{len(faults)} faults: {len(faults) - survived} caught, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
