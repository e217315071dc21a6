variables {
  targets = {
    dev  = { host = "localhost", database = "analytics", user = "dbt", schema = "dev" }
    prod = { host = "warehouse.example.com", database = "analytics", user = "dbt", schema = "analytics", threads = 8, sslmode = "verify-full" }
  }
  passwords = { prod = "made-up" }
}

run "gives_the_contract" {
  assert {
    condition = output.dbt_targets.dev == {
      type = "postgres", host = "localhost", port = 5432, database = "analytics", user = "dbt", schema = "dev", threads = 4
    }
    error_message = "A target without sslmode has the defaults and no key sslmode."
  }

  assert {
    condition     = output.dbt_targets.prod.sslmode == "verify-full" && output.dbt_targets.prod.threads == 8
    error_message = "What is given is passed on."
  }

  assert {
    condition     = output.dbt_target_secrets == { prod = { password = "made-up" } }
    error_message = "Only targets with a password have a secret."
  }
}

run "refuses_a_name_that_is_no_block_name" {
  command = plan
  variables {
    targets   = { Prod_1 = { host = "h", database = "d", user = "u", schema = "s" } }
    passwords = {}
  }
  expect_failures = [var.targets]
}

run "refuses_no_target" {
  command = plan
  variables {
    targets   = {}
    passwords = {}
  }
  expect_failures = [var.targets]
}

run "refuses_an_empty_host" {
  command = plan
  variables {
    targets   = { dev = { host = "", database = "d", user = "u", schema = "s" } }
    passwords = {}
  }
  expect_failures = [var.targets]
}

run "refuses_a_port_that_is_none" {
  command = plan
  variables {
    targets   = { dev = { host = "h", port = 70000, database = "d", user = "u", schema = "s" } }
    passwords = {}
  }
  expect_failures = [var.targets]
}

run "refuses_an_unknown_sslmode" {
  command = plan
  variables {
    targets   = { dev = { host = "h", database = "d", user = "u", schema = "s", sslmode = "yes" } }
    passwords = {}
  }
  expect_failures = [var.targets]
}

run "refuses_a_password_without_its_target" {
  command = plan
  variables {
    passwords = { staging = "made-up" }
  }
  expect_failures = [var.passwords]
}

run "passes_on_who_is_told" {
  variables {
    notices = {
      prod = {
        receivers = {
          team = { type = "slack", url = "https://hooks.slack.com/services/T0/B0/made-up" }
          mail = { type = "email", server = "smtp.example.com", sender = "a@example.com", recipients = ["b@example.com"] }
        }
        events = ["failure", "success"]
        routes = { mail = { owners = ["shop"], tags = ["daily"] } }
      }
    }
  }

  assert {
    condition     = output.dbt_target_notices.prod.receivers.team.url == "https://hooks.slack.com/services/T0/B0/made-up"
    error_message = "Receivers are passed on."
  }

  assert {
    condition     = output.dbt_target_notices.prod.events == tolist(["failure", "success"])
    error_message = "Events are passed on."
  }

  assert {
    condition     = output.dbt_target_notices.prod.routes.mail.owners == tolist(["shop"])
    error_message = "Routes are passed on."
  }
}

run "refuses_notices_without_a_target" {
  command = plan
  variables {
    notices = { qa = { receivers = { team = { type = "slack", url = "https://hooks.slack.com/services/T0/B0/made-up" } } } }
  }
  expect_failures = [var.notices]
}

run "refuses_a_receiver_of_no_known_type" {
  command = plan
  variables {
    notices = { prod = { receivers = { team = { type = "pigeon" } } } }
  }
  expect_failures = [var.notices]
}

run "passes_on_the_state_url" {
  variables {
    state_url = "gs://made-up/millrace"
  }

  assert {
    condition     = output.state_url == "gs://made-up/millrace"
    error_message = "The state store's URL is passed on."
  }
}

run "refuses_a_login_in_the_state_url" {
  command = plan
  variables {
    state_url = "s3://somebody:made-up@bucket/millrace"
  }
  expect_failures = [var.state_url]
}

run "refuses_a_state_url_without_a_bucket" {
  command = plan
  variables {
    state_url = "s3://"
  }
  expect_failures = [var.state_url]
}
