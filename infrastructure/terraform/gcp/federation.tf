# Workflows and pods show the token that GitHub or the cluster gave them, and get one of Google's.
# No key exists.

resource "google_iam_workload_identity_pool" "millrace" {
  count = length(module.layout.github) + length(module.layout.kubernetes) > 0 ? 1 : 0

  workload_identity_pool_id = "millrace"
  display_name              = "Millrace"

  depends_on = [google_project_service.used]
}

resource "google_iam_workload_identity_pool_provider" "github" {
  # checkov:skip=CKV_GCP_125:it reads only a literal condition; this one names every repository
  count = length(module.layout.github) > 0 ? 1 : 0

  workload_identity_pool_id          = google_iam_workload_identity_pool.millrace[0].workload_identity_pool_id
  workload_identity_pool_provider_id = "github"
  display_name                       = "GitHub Actions"
  attribute_mapping = {
    "google.subject"       = "assertion.sub"
    "attribute.repository" = "assertion.repository"
  }
  # GitHub gives tokens to everybody's workflows: without this, all of them would be let in.
  attribute_condition = "assertion.repository in ${jsonencode(distinct([for grant in values(module.layout.github) : grant.repository]))}"

  oidc {
    issuer_uri = "https://token.actions.githubusercontent.com"
  }
}

resource "google_service_account_iam_member" "github" {
  for_each = module.layout.github

  service_account_id = google_service_account.dbt[each.value.target].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "principalSet://iam.googleapis.com/${google_iam_workload_identity_pool.millrace[0].name}/attribute.repository/${each.value.repository}"
}

resource "google_iam_workload_identity_pool_provider" "kubernetes" {
  count = length(module.layout.kubernetes) > 0 ? 1 : 0

  workload_identity_pool_id          = google_iam_workload_identity_pool.millrace[0].workload_identity_pool_id
  workload_identity_pool_provider_id = "kubernetes"
  display_name                       = "Kubernetes"
  attribute_mapping                  = { "google.subject" = "assertion.sub" }
  # The cluster has other service accounts too.
  attribute_condition = "assertion.sub in ${jsonencode(distinct([for grant in values(module.layout.kubernetes) : grant.subject]))}"

  oidc {
    issuer_uri = var.kubernetes_issuer
    jwks_json  = var.kubernetes_jwks
  }

  lifecycle {
    precondition {
      condition     = var.kubernetes_issuer != null
      error_message = "A target names Kubernetes service accounts; set kubernetes_issuer to the issuer of their tokens."
    }
  }
}

resource "google_service_account_iam_member" "kubernetes" {
  for_each = module.layout.kubernetes

  service_account_id = google_service_account.dbt[each.value.target].name
  role               = "roles/iam.workloadIdentityUser"
  member             = "principal://iam.googleapis.com/${google_iam_workload_identity_pool.millrace[0].name}/subject/${each.value.subject}"
}
