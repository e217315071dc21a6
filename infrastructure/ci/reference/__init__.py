"""Generate the pages in `documentation/reference`: commands, flows, settings, Terraform outputs.

The pages are in git, so that GitHub shows them and a pull request shows how it changes the command
line. `.ci/site` and a test fail if a page is out of date.
"""
