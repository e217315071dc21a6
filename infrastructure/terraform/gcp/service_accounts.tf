resource "google_service_account" "dbt" {
  for_each = module.layout.service_accounts

  project      = each.value.project
  account_id   = each.value.account_id
  display_name = "dbt, target ${each.key}"
  description  = "Runs and loads the target's models; may change its own datasets and no others."
}

# To run a query is a right in the project that pays for it; what a query may read is a right in each dataset.
resource "google_project_iam_member" "job_user" {
  for_each = module.layout.job_users

  project = each.value.project
  role    = each.value.role
  member  = google_service_account.dbt[each.value.target].member
}

resource "google_service_account_iam_member" "impersonator" {
  for_each = module.layout.impersonations

  service_account_id = google_service_account.dbt[each.value.target].name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = each.value.member
}

# Only for a target that asks for it: the key then stands in Terraform's state.
resource "google_service_account_key" "dbt" {
  for_each = { for name, account in module.layout.service_accounts : name => account if account.create_key }

  service_account_id = google_service_account.dbt[each.key].name
}
