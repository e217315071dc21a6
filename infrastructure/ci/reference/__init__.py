"""The reference in `documentation/reference`, out of the code: commands, flows, settings, outputs.

Its pages are kept in git, so that they are read on GitHub too and a pull request shows what it
changes for whoever uses a command; `.ci/site` and a test refuse pages that say something else than
the code.
"""
