# What the project itself says of its datasets, so that it is written down once. No provider.

terraform {
  required_version = ">= 1.9"
}

variable "folder" {
  description = "The project's root."
  type        = string
}

variable "dbt_dir" {
  description = "Folder of the dbt project, relative to the root."
  type        = string
  default     = "dbt"
}

variable "sources_dir" {
  description = "Folder of the sources, relative to the root."
  type        = string
  default     = "prefect_flows/sources"
}

locals {
  dbt = yamldecode(file("${var.folder}/${var.dbt_dir}/dbt_project.yml"))

  # Each kind's settings, and those of its folders.
  settings = flatten([
    for kind in ["models", "seeds", "snapshots"] : [
      for own in [try(local.dbt[kind][local.dbt.name], {})] : concat([own], [
        for folder in values(own) : folder if can(keys(folder))
      ])
    ]
  ])
}

output "sources" {
  description = "The folders of the sources."
  value       = toset([for file in fileset("${var.folder}/${var.sources_dir}", "*/source.py") : dirname(file)])
}

output "layers" {
  description = "The `+schema` of every folder of dbt_project.yml: each is a dataset beside the target's."
  value       = toset([for setting in local.settings : setting["+schema"] if can(setting["+schema"])])
}
