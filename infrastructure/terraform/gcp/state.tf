# Run state, reports and docs. Not Terraform's own state, whose bucket has to be there before.

resource "google_storage_bucket" "state" {
  # checkov:skip=CKV_GCP_62:Cloud Audit Logs tell who read and wrote; a bucket of logs would need one itself
  name                        = local.state_bucket
  location                    = var.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false

  versioning {
    enabled = true
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = var.state_versions_days
    }
    action {
      type = "Delete"
    }
  }

  lifecycle_rule {
    condition {
      age = 1
    }
    action {
      type = "AbortIncompleteMultipartUpload"
    }
  }
}

# Every run writes the page over all targets, and reads a summary of each for it.
resource "google_storage_bucket_iam_member" "state_reader" {
  for_each = module.layout.service_accounts

  bucket = google_storage_bucket.state.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.dbt[each.key].member
}

resource "google_storage_bucket_iam_member" "state_writer" {
  for_each = { for name, account in module.layout.service_accounts : name => account if account.state_condition != null }

  bucket = google_storage_bucket.state.name
  role   = "roles/storage.objectUser"
  member = google_service_account.dbt[each.key].member

  condition {
    title       = "State of target ${each.key}"
    description = "What the target's runs go on from: SECURITY.md"
    expression  = each.value.state_condition
  }
}
