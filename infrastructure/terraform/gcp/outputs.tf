# The contract between Terraform and setup, and nothing else: documentation/contract.md.

output "dbt_targets" {
  description = "Where each target is."
  value       = module.layout.dbt_targets

  # Setup may use them at once.
  depends_on = [
    google_bigquery_dataset_iam_member.all,
    google_project_iam_member.job_user,
    google_service_account_iam_member.impersonator,
  ]
}

output "dbt_target_secrets" {
  description = "The key of each target that sets create_key."
  value = {
    for name, key in google_service_account_key.dbt : name => { service_account_key = base64decode(key.private_key) }
  }
  sensitive = true
}

output "state_url" {
  description = "Where run state and docs are kept."
  value       = google_storage_bucket.state.url
}

output "dbt_target_notices" {
  description = "Who is notified about each target, and of which events."
  value       = var.notices
  sensitive   = true
}
