# What there is, and who may what, is decided in modules/layout; here it is made.

module "project" {
  source = "./modules/project"

  folder      = "${path.module}/${var.repository.folder}"
  dbt_dir     = var.repository.dbt_dir
  sources_dir = var.repository.sources_dir
}

module "layout" {
  source = "./modules/layout"

  project  = var.project
  location = var.location
  targets  = var.targets
  sources  = module.project.sources
  layers   = setunion(module.project.layers, var.more_layers)

  state_bucket = local.state_bucket
}

locals {
  state_bucket = coalesce(var.state_bucket, "${var.project}-millrace")

  projects = toset([for account in values(module.layout.service_accounts) : account.project])

  services = {
    for pair in setproduct(local.projects, ["bigquery", "iam", "iamcredentials", "sts"]) :
    "${pair[0]} ${pair[1]}" => { project = pair[0], service = "${pair[1]}.googleapis.com" }
  }
}

resource "google_project_service" "used" {
  for_each = local.services

  project            = each.value.project
  service            = each.value.service
  disable_on_destroy = false
}
