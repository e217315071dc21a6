data "google_project" "this" {
  count = var.billing_account == null ? 0 : 1

  project_id = var.project
}

resource "google_billing_budget" "monthly" {
  count = var.billing_account == null ? 0 : 1

  billing_account = var.billing_account
  display_name    = "Millrace, ${var.project}"

  budget_filter {
    projects = ["projects/${data.google_project.this[0].number}"]
  }

  amount {
    specified_amount {
      units = tostring(var.monthly_budget)
    }
  }

  dynamic "threshold_rules" {
    for_each = [0.5, 0.9, 1.0]
    content {
      threshold_percent = threshold_rules.value
    }
  }

  lifecycle {
    precondition {
      condition     = var.monthly_budget != null
      error_message = "billing_account asks for an alert; set monthly_budget to the amount that it is about."
    }
  }
}
