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

run "reads_another_folder" {
  variables {
    folder      = "../../../../../tests/support/dbt_projects"
    dbt_dir     = "foreign"
    sources_dir = "sources"
  }

  assert {
    condition     = length(output.sources) == 0 && length(output.layers) > 0
    error_message = "A project with another layout has no folder of sources here, and layers of its own."
  }
}
