resource "google_bigquery_dataset" "all" {
  # checkov:skip=CKV_GCP_81:Google encrypts with keys of its own; one of yours is yours to decide
  for_each = module.layout.datasets

  project                     = each.value.project
  dataset_id                  = each.value.dataset
  location                    = each.value.location
  default_table_expiration_ms = each.value.table_expiration_ms
  labels                      = each.value.labels
  # Terraform removes no dataset that holds tables.
  delete_contents_on_destroy = false

  depends_on = [google_project_service.used]
}

resource "google_bigquery_dataset_iam_member" "all" {
  for_each = module.layout.grants

  project    = google_bigquery_dataset.all[each.value.dataset].project
  dataset_id = google_bigquery_dataset.all[each.value.dataset].dataset_id
  role       = each.value.role
  member     = "serviceAccount:${each.value.email}"

  depends_on = [google_service_account.dbt]
}
