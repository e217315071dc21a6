terraform {
  required_version = ">= 1.9"

  # Settings of it come from a file that git does not hold: terraform init -backend-config=backend.hcl
  # This backend locks the state while somebody changes it.
  backend "gcs" {}

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 7.0"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region
  # Budgets and quotas are counted for the project itself, and not for who calls.
  billing_project       = var.project
  user_project_override = true
}
