"""One dbt invocation: how it is called, what came back, why it failed, what is left to do."""
