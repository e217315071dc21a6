variables {
  project  = "made-up-project"
  location = "EU"
  sources  = ["nyc__flights"]
  layers   = ["staging", "marts"]

  state_bucket = "made-up-state"

  targets = {
    dev = {
      threads               = 4
      table_expiration_days = 14
      impersonators         = ["group:analysts@made-up.example"]
    }
    prod = {
      dataset                     = "analytics"
      priority                    = "batch"
      maximum_bytes_billed        = 1099511627776
      ingests                     = false
      impersonated                = false
      github_repositories         = ["made-up/analytics"]
      kubernetes_service_accounts = ["millrace/worker"]
    }
  }
}

run "gives_the_contract" {
  assert {
    condition = output.dbt_targets.dev == {
      type                        = "bigquery", project = "made-up-project", dataset = "dev", location = "EU", threads = 4
      impersonate_service_account = "dbt-dev@made-up-project.iam.gserviceaccount.com"
    }
    error_message = "What is not given is absent; without a key the machine works as the target's service account."
  }

  assert {
    condition = output.dbt_targets.prod == {
      type     = "bigquery", project = "made-up-project", dataset = "analytics", location = "EU", threads = 8
      priority = "batch", maximum_bytes_billed = 1099511627776
    }
    error_message = "A machine that is the service account itself impersonates nobody."
  }
}

run "a_target_writes_its_own_run_state_and_no_other" {
  assert {
    condition = output.service_accounts.dev.state_condition == join(" || ", [
      "resource.name.startsWith(\"projects/_/buckets/made-up-state/objects/targets/dev/\")",
      "resource.name.startsWith(\"projects/_/buckets/made-up-state/objects/runs/dev/\")",
      "resource.name == \"projects/_/buckets/made-up-state/objects/index.html\"",
    ])
    error_message = "Its two folders, each to its slash: dev may not write what dev-2 goes on from."
  }

  assert {
    condition     = !strcontains(output.service_accounts.prod.state_condition, "/dev/")
    error_message = "Each has a condition of its own."
  }
}

run "every_layer_has_its_dataset" {
  assert {
    condition = toset(keys(output.datasets)) == toset([
      for name in [
        "dev", "dev_staging", "dev_marts", "analytics", "analytics_staging", "analytics_marts",
        "raw_nyc__flights", "raw_nyc__flights_staging",
      ] : "made-up-project.${name}"
    ])
    error_message = "dbt's dataset, one a layer, and what a source is loaded into and by way of."
  }

  assert {
    condition = (
      output.datasets["made-up-project.dev_marts"].table_expiration_ms == 1209600000
      && output.datasets["made-up-project.analytics_marts"].table_expiration_ms == null
      && output.datasets["made-up-project.raw_nyc__flights"].table_expiration_ms == null
    )
    error_message = "Only what dbt builds for dev ends by itself, after 14 days in milliseconds."
  }
}

run "a_service_account_writes_its_own_datasets_and_no_others" {
  assert {
    condition = toset([
      for grant in values(output.grants) : "${grant.role} ${grant.dataset}"
      if grant.email == "dbt-prod@made-up-project.iam.gserviceaccount.com"
      ]) == toset([
      "roles/bigquery.dataEditor made-up-project.analytics",
      "roles/bigquery.dataEditor made-up-project.analytics_staging",
      "roles/bigquery.dataEditor made-up-project.analytics_marts",
      "roles/bigquery.dataViewer made-up-project.raw_nyc__flights",
      "roles/bigquery.dataViewer made-up-project.raw_nyc__flights_staging",
    ])
    error_message = "prod builds its own and only reads what dev loaded."
  }

  assert {
    condition = toset([
      for grant in values(output.grants) : "${grant.role} ${grant.dataset}"
      if grant.email == "dbt-dev@made-up-project.iam.gserviceaccount.com"
      ]) == toset([
      for dataset in ["dev", "dev_staging", "dev_marts", "raw_nyc__flights", "raw_nyc__flights_staging"] :
      "roles/bigquery.dataEditor made-up-project.${dataset}"
    ])
    error_message = "dev loads, and does not see prod."
  }
}

run "who_may_work_as_a_service_account" {
  assert {
    condition     = values(output.impersonations) == [{ target = "dev", member = "group:analysts@made-up.example" }]
    error_message = "The members of dev, and nobody for prod."
  }

  assert {
    condition     = values(output.github) == [{ target = "prod", repository = "made-up/analytics" }]
    error_message = "The repository of prod."
  }

  assert {
    condition     = values(output.kubernetes) == [{ target = "prod", subject = "system:serviceaccount:millrace:worker" }]
    error_message = "The subject as a cluster's tokens name it."
  }

  assert {
    condition     = alltrue([for account in values(output.service_accounts) : !account.create_key])
    error_message = "A key is only created for targets that set create_key."
  }
}

run "a_target_of_another_project_has_its_own_raw_data" {
  variables {
    targets = {
      dev  = { project = "made-up-dev", location = "US" }
      prod = { create_key = true, execution_project = "made-up-paying" }
    }
  }

  assert {
    condition = (
      output.datasets["made-up-dev.raw_nyc__flights"].location == "US"
      && output.datasets["made-up-project.raw_nyc__flights"].location == "EU"
      && one(output.datasets["made-up-dev.raw_nyc__flights"].writers) == "dbt-dev@made-up-dev.iam.gserviceaccount.com"
    )
    error_message = "Each project has what its targets load, where they are."
  }

  assert {
    condition = (
      output.dbt_targets.prod.execution_project == "made-up-paying"
      && toset(keys(output.job_users)) == toset(["dev made-up-dev", "prod made-up-paying", "prod made-up-project"])
    )
    error_message = "Queries run where they are paid for, loads where the data is."
  }

  assert {
    condition     = !contains(keys(output.dbt_targets.prod), "impersonate_service_account")
    error_message = "With a key, dbt is the service account already."
  }
}

run "a_target_that_builds_pull_requests_reads_production_and_makes_datasets" {
  variables {
    targets = {
      prod = { dataset = "analytics" }
      ci   = { compares_with = "prod", ingests = false, execution_project = "made-up-paying" }
    }
  }

  assert {
    condition = toset([
      for grant in values(output.grants) : "${grant.role} ${grant.dataset}"
      if grant.email == "dbt-ci@made-up-project.iam.gserviceaccount.com"
      ]) == toset([
      for dataset in ["analytics", "analytics_staging", "analytics_marts", "raw_nyc__flights", "raw_nyc__flights_staging"] :
      "roles/bigquery.dataViewer made-up-project.${dataset}"
    ])
    error_message = "It reads what production built and what is loaded, and writes none of it."
  }

  assert {
    condition = (
      output.job_users["ci made-up-project"].role == "roles/bigquery.user"
      && output.job_users["ci made-up-paying"].role == "roles/bigquery.jobUser"
      && output.job_users["prod made-up-project"].role == "roles/bigquery.jobUser"
    )
    error_message = "Datasets are made where the data is, by it alone."
  }

  assert {
    condition = (
      output.service_accounts.ci.state_condition == null
      && output.service_accounts.prod.state_condition != null
    )
    error_message = "It reads run state, and does not write it."
  }
}

run "refuses_to_compare_with_a_target_that_is_not_there" {
  command = plan
  variables { targets = { ci = { compares_with = "prod", ingests = false } } }
  expect_failures = [var.targets]
}

run "refuses_to_load_sources_for_pull_requests" {
  command = plan
  variables { targets = { prod = {}, ci = { compares_with = "prod" } } }
  expect_failures = [var.targets]
}

run "refuses_to_compare_across_projects" {
  command = plan
  variables { targets = { prod = {}, ci = { compares_with = "prod", ingests = false, project = "made-up-dev" } } }
  expect_failures = [var.targets]
}

run "refuses_no_target" {
  command = plan
  variables { targets = {} }
  expect_failures = [var.targets]
}

run "refuses_a_name_that_is_no_block_name" {
  command = plan
  variables { targets = { Prod_1 = {} } }
  expect_failures = [var.targets]
}

run "refuses_a_name_too_long_for_a_service_account" {
  command = plan
  variables { targets = { abcdefghijklmnopqrstuvwxyza = {} } }
  expect_failures = [var.targets]
}

run "refuses_two_targets_in_one_dataset" {
  command = plan
  variables { targets = { dev = { dataset = "Analytics" }, prod = { dataset = "analytics" } } }
  expect_failures = [var.targets]
}

run "refuses_raw_data_in_two_locations" {
  command = plan
  variables { targets = { dev = { location = "US" }, prod = {} } }
  expect_failures = [var.targets]
}

run "refuses_a_dataset_with_a_dash" {
  command = plan
  variables { targets = { dev = { dataset = "dev-1" } } }
  expect_failures = [var.targets]
}

run "refuses_a_limit_below_what_every_query_costs" {
  command = plan
  variables { targets = { dev = { maximum_bytes_billed = 1000 } } }
  expect_failures = [var.targets]
}

run "refuses_a_priority_that_is_none" {
  command = plan
  variables { targets = { dev = { priority = "high" } } }
  expect_failures = [var.targets]
}

run "refuses_a_member_without_its_kind" {
  command = plan
  variables { targets = { dev = { impersonators = ["somebody@made-up.example"] } } }
  expect_failures = [var.targets]
}

run "refuses_a_source_that_is_no_folder_name" {
  command = plan
  variables { sources = ["flights"] }
  expect_failures = [var.sources]
}
