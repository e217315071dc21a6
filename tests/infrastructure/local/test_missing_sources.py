"""What quickstart says of source tables that nobody has loaded."""

from __future__ import annotations

from tests.support.project import Scratch

CODE = """
from rich.console import Console
from infrastructure.local.quickstart import print_missing_sources
from prefect_flows.core.settings import load_settings
print_missing_sources(Console(), load_settings(), "scratch")
"""


def test_tables_that_are_missing_are_named(scratch: Scratch) -> None:
    scratch.query("create schema shop; create table shop.orders (id int)", "scratch")
    tables = [{"name": name} for name in ("orders", "customers", "unread")]
    scratch.properties(sources=[{"name": "shop", "schema": "shop", "tables": tables}])
    for name in ("orders", "customers"):
        scratch.model(name, f"select * from {{{{ source('shop', '{name}') }}}}")

    said = scratch.run("-c", CODE).stdout
    assert "The target scratch does not have these source tables: shop.customers.\n" in said
    assert "documentation/how_to/add_a_source.md" in said

    scratch.query("create table shop.customers (id int)", "scratch")
    assert scratch.run("-c", CODE).stdout == ""
