"""Tests of models read the tables of the quickstart."""

import pytest

from tests.support.project import Project, Quickstart


@pytest.fixture(scope="session")
def project(quickstart: Quickstart) -> Project:
    """The project with all tables that the quickstart makes."""
    return quickstart.project
