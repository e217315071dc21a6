resource "google_artifact_registry_repository" "images" {
  # checkov:skip=CKV_GCP_84:see CKV_GCP_81 in bigquery.tf
  count = var.image_repository == null ? 0 : 1

  repository_id = var.image_repository
  location      = var.region
  format        = "DOCKER"
  description   = "Images of the pipeline and of its sources"

  docker_config {
    # A tag always means the image that it meant first.
    immutable_tags = true
  }

  cleanup_policies {
    id     = "untagged"
    action = "DELETE"
    condition {
      tag_state  = "UNTAGGED"
      older_than = "2592000s"
    }
  }
}

resource "google_artifact_registry_repository_iam_member" "reader" {
  for_each = var.image_repository == null ? {} : module.layout.service_accounts

  location   = google_artifact_registry_repository.images[0].location
  repository = google_artifact_registry_repository.images[0].name
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.dbt[each.key].member
}
