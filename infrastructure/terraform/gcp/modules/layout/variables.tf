# What each of these means is said where a person gives it: ../../variables.tf.

variable "project" {
  type = string
}

variable "location" {
  type = string
}

variable "targets" {
  type = map(object({
    project                       = optional(string)
    dataset                       = optional(string)
    location                      = optional(string)
    execution_project             = optional(string)
    threads                       = optional(number, 8)
    priority                      = optional(string)
    maximum_bytes_billed          = optional(number)
    job_execution_timeout_seconds = optional(number)
    table_expiration_days         = optional(number)
    publish                       = optional(bool, false)
    ingests                       = optional(bool, true)
    compares_with                 = optional(string)
    create_key                    = optional(bool, false)
    impersonated                  = optional(bool, true)
    impersonators                 = optional(set(string), [])
    github_repositories           = optional(set(string), [])
    kubernetes_service_accounts   = optional(set(string), [])
  }))

  validation {
    condition     = length(var.targets) > 0
    error_message = "There has to be at least one target."
  }

  validation {
    condition = alltrue([
      for name in keys(var.targets) :
      can(regex("^[a-z][a-z0-9]*(-[a-z0-9]+)*$", name)) && length(name) <= 26
    ])
    error_message = "A target's name is at most 26 lowercase letters, digits and single dashes, beginning with a letter: it becomes part of a block's name, and of a service account's, which has at most 30 characters."
  }

  validation {
    condition = alltrue([
      for target in values(var.targets) :
      can(regex("^[A-Za-z0-9_]{1,1000}$", coalesce(target.dataset, "valid")))
    ])
    error_message = "A dataset's name has letters, digits and underscores only."
  }

  validation {
    condition = alltrue(flatten([
      for target in values(var.targets) : [
        for project in [target.project, target.execution_project] :
        can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", coalesce(project, "valid-project")))
      ]
    ]))
    error_message = "A project is named by its id: 6 to 30 lowercase letters, digits and dashes, beginning with a letter."
  }

  validation {
    condition = alltrue([
      for target in values(var.targets) : target.compares_with == null ? true : (
        !target.ingests
        && try(var.targets[target.compares_with].compares_with == null, false)
        && try(coalesce(var.targets[target.compares_with].project, "same") == coalesce(target.project, "same"), false)
        && try(coalesce(var.targets[target.compares_with].location, "same") == coalesce(target.location, "same"), false)
      )
    ])
    error_message = "compares_with names another target of the same project and location, which itself compares with none; ingests is false beside it."
  }

  validation {
    condition = alltrue([
      for target in values(var.targets) : target.threads >= 1 && floor(target.threads) == target.threads
    ])
    error_message = "threads is a whole number, at least 1."
  }

  validation {
    condition = alltrue([
      for target in values(var.targets) : contains(["interactive", "batch"], coalesce(target.priority, "batch"))
    ])
    error_message = "priority is interactive or batch."
  }

  validation {
    # BigQuery bills no query for less than 10 MB: a smaller limit refuses every one.
    condition = alltrue([
      for target in values(var.targets) :
      coalesce(target.maximum_bytes_billed, 10485760) >= 10485760
      && floor(coalesce(target.maximum_bytes_billed, 10485760)) == coalesce(target.maximum_bytes_billed, 10485760)
    ])
    error_message = "maximum_bytes_billed is a whole number of bytes, at least 10485760, the least that BigQuery bills a query for."
  }

  validation {
    condition = alltrue([
      for target in values(var.targets) :
      coalesce(target.job_execution_timeout_seconds, 1) >= 1 && coalesce(target.table_expiration_days, 1) >= 1
    ])
    error_message = "job_execution_timeout_seconds and table_expiration_days are at least 1."
  }

  validation {
    condition = alltrue(flatten([
      for target in values(var.targets) : [
        for member in target.impersonators :
        can(regex("^(user|group|serviceAccount|principal|principalSet):.+$", member))
      ]
    ]))
    error_message = "An impersonator is a member as IAM writes it: user:, group:, serviceAccount:, principal: or principalSet: before its address."
  }

  validation {
    condition = alltrue(flatten([
      for target in values(var.targets) : [
        for repository in target.github_repositories : can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", repository))
      ]
    ]))
    error_message = "A GitHub repository is owner/name."
  }

  validation {
    condition = alltrue(flatten([
      for target in values(var.targets) : [
        for account in target.kubernetes_service_accounts : can(regex("^[a-z0-9-]+/[a-z0-9.-]+$", account))
      ]
    ]))
    error_message = "A Kubernetes service account is namespace/name."
  }

  validation {
    condition = length(distinct([
      for name, target in var.targets :
      "${coalesce(target.project, var.project)}.${lower(coalesce(target.dataset, replace(name, "-", "_")))}"
    ])) == length(var.targets)
    error_message = "Two targets share a dataset; each has to build into one of its own."
  }

  validation {
    condition = length(distinct([
      for name, target in var.targets :
      "${coalesce(target.project, var.project)} ${lower(coalesce(target.location, var.location))}" if target.ingests
      ])) == length(distinct([
      for name, target in var.targets : coalesce(target.project, var.project) if target.ingests
    ]))
    error_message = "Targets that ingest into one project share its raw datasets, and have to be in one location."
  }
}

variable "sources" {
  type = set(string)

  validation {
    condition     = alltrue([for name in var.sources : can(regex("^[a-z0-9]+(_[a-z0-9]+)*__[a-z0-9]+(_[a-z0-9]+)*$", name))])
    error_message = "A source is named by its folder: <owner>__<name>."
  }
}

variable "layers" {
  type = set(string)
}

variable "state_bucket" {
  type = string
}
