"""What a database says holds values of rows; near personal data none of them is shown."""

from __future__ import annotations

import pytest

from prefect_flows.reporting.run_report.redaction import redact_message

SQL = "select email, nme from \"people\" where status = 'secret'"


@pytest.mark.parametrize(
    "message",
    [
        'duplicate key value violates unique constraint "k"\nDETAIL:  Key (email)=(secret) exists.',
        'invalid input syntax for type integer: "secret"\nLINE 3: select email::int',
        'invalid input syntax for type integer: "se"secret"cret"',
        'invalid input syntax for type integer: "line\nsecret"',
        'null value in column "email" violates not-null\nDETAIL:  Failing row contains (secret).',
        "Database Error in model m (models/m.sql)\n  Bad int64 value: secret",
        "Database Error in model m (models/m.sql)\n  Invalid date: 'secret'",
        "Database Error in model m (models/m.sql)\n  Could not cast literal `secret` to type DATE",
        "Query error: Bad double value: secret at [3:1]",
        'date/time field value out of range: "secret"\nHINT:  Perhaps secret',
        "value (secret) is out of range",
        "division failed where x=secret",
        "it isn't secret",
        "Database Error in model m (models/m.sql)\n  it failed\n  CONTEXT: COPY t, line 1: secret",
    ],
)
def test_no_value_is_left(message: str) -> None:
    assert "secret" not in redact_message(message, SQL)


@pytest.mark.parametrize("number", ["4915112345", "-4915112345", "+4915112345.5"])
def test_no_number_of_a_row_is_left(number: str) -> None:
    said = redact_message(f"value {number} is out of range", SQL)
    assert said == "value … (values left out)"


def test_faults_from_before_are_still_reported() -> None:
    message = (
        'Database Error in model m (models/m.sql)\n  column "nme" does not exist\n'
        "  LINE 5: select nme\n  compiled code at target/run/m.sql"
    )
    assert redact_message(message, SQL) == (
        'Database Error in model m (models/m.sql)\ncolumn "nme" does not exist … (values left out)'
    )
    assert redact_message('invalid input syntax for type uuid: "x1"', SQL) == (
        "invalid input syntax for type uuid: … (values left out)"
    )
    assert "Unrecognized name: nme at [1:9]" in redact_message(
        "Unrecognized name: nme at [1:9]", SQL
    )


def test_dbts_own_words_for_a_test_stay() -> None:
    said = "Got 3 results, configured to fail if != 0"
    assert redact_message(said, None) == said
    assert redact_message("", None) == ""
