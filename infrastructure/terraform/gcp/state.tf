# Run state, reports and docs. Not Terraform's own state, whose bucket has to be there before.

resource "google_storage_bucket" "state" {
  # checkov:skip=CKV_GCP_62:Cloud Audit Logs tell who read and wrote; a bucket of logs would need one itself
  name                        = coalesce(var.state_bucket, "${var.project}-millrace")
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

resource "google_storage_bucket_iam_member" "state" {
  for_each = module.layout.service_accounts

  bucket = google_storage_bucket.state.name
  role   = each.value.state_role
  member = google_service_account.dbt[each.key].member
}
