run "reads_this_project" {
  variables {
    folder = "../../../../.."
  }

  assert {
    condition     = contains(output.sources, "nyc__flights")
    error_message = "Every folder with a source.py is a source."
  }

  assert {
    condition     = output.layers == toset(["staging", "intermediate", "marts", "seeds", "snapshots"])
    error_message = "Every +schema of dbt_project.yml is a layer."
  }
}
