variable "project" {
  description = "Id of the Google Cloud project that targets are in, unless they name another; it exists, with billing."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "A project is named by its id: 6 to 30 lowercase letters, digits and dashes, beginning with a letter."
  }
}

variable "location" {
  description = "Where BigQuery keeps the data, unless a target says otherwise: EU, US, or a region."
  type        = string
  default     = "EU"
}

variable "region" {
  description = "Region of what is in one: images."
  type        = string
  default     = "europe-west1"
}

variable "repository" {
  description = "Folders of a repository that is not a clone of Millrace: its root, relative to this folder, and its settings dbt_dir and sources_dir."
  type = object({
    folder      = optional(string, "../../..")
    dbt_dir     = optional(string, "dbt")
    sources_dir = optional(string, "prefect_flows/sources")
  })
  default = {}
}

variable "targets" {
  description = <<-EOT
    Target's name => what it is. All may be left out:
      project                        id of an existing project of its own
      dataset                        what dbt builds into; the target's name when not given
      location                       where its data lies
      execution_project              id of the project that runs and pays for its queries; the target's own when not given
      threads                        models built at a time
      priority                       interactive or batch
      maximum_bytes_billed           a query that would read more bytes is refused
      job_execution_timeout_seconds  a query that takes longer is ended
      table_expiration_days          what dbt builds is removed after so many days; never when not given
      publish                        whether readers see only models whose tests passed; it may make datasets then
      ingests                        whether it loads the sources; else it reads what others of its project loaded
      compares_with                  the target of its project that it builds pull requests beside: it may make
                                     datasets, and reads that target's and its run state
      impersonated                   whether the machine that runs dbt takes on the target's service account;
                                     false for one that is that service account already
      impersonators                  who may take it on: user:…, group:…, serviceAccount:…
      github_repositories            whose workflows may: owner/name
      kubernetes_service_accounts    which may, of the cluster in `kubernetes_issuer`: namespace/name
      create_key                     make a key, which then stands in Terraform's state
  EOT
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
}

variable "more_layers" {
  description = "Schemas that a model's own config names, beside those of the folders in dbt_project.yml."
  type        = set(string)
  default     = []
}

variable "kubernetes_issuer" {
  description = "Issuer of the cluster's service account tokens: kubectl get --raw /.well-known/openid-configuration. None: no cluster."
  type        = string
  default     = null

  validation {
    condition     = startswith(coalesce(var.kubernetes_issuer, "https://"), "https://")
    error_message = "An issuer is an https:// address."
  }
}

variable "kubernetes_jwks" {
  description = "Its keys as JSON, for a cluster that Google cannot reach: kubectl get --raw /openid/v1/jwks."
  type        = string
  default     = null
}

variable "state_bucket" {
  description = "Name of the bucket for run state, reports and docs; <project>-millrace when null."
  type        = string
  default     = null
}

variable "state_versions_days" {
  description = "Days that replaced and removed objects of the bucket can be brought back."
  type        = number
  default     = 30
}

variable "billing_account" {
  description = "Billing account of the project, for an alert at half, nine tenths and all of `monthly_budget`. None: no alert."
  type        = string
  default     = null
}

variable "monthly_budget" {
  description = "What the project is meant to cost a month at most, in the billing account's currency, whole units."
  type        = number
  default     = null
}

variable "image_repository" {
  description = "Name of an Artifact Registry repository for images. None: no repository."
  type        = string
  default     = null
}

variable "notices" {
  description = <<-EOT
    Target's name => who is notified, and of which events. These values are stored in Terraform's state.
      receivers  name => where; `type` is slack, teams, discord, webhook or email:
                 slack, teams, discord  url: the channel's webhook
                 webhook                url, headers: gets JSON {"subject", "body"}
                 email                  server, port (587), security (starttls, ssl, none), user, password, sender, recipients
      events     events that are sent: failure, recovery, warning, stale, success, retry; the first four when not given
      owners     `meta.owner` of dbt => how the chat mentions them
      routes     receiver's name => owners, groups or tags of dbt: it is notified only of their nodes. A
                 receiver without a route is notified of everything; there must be one.
  EOT
  type = map(object({
    receivers = map(object({
      type       = string
      url        = optional(string)
      headers    = optional(map(string))
      server     = optional(string)
      port       = optional(number)
      security   = optional(string)
      user       = optional(string)
      password   = optional(string)
      sender     = optional(string)
      recipients = optional(list(string))
    }))
    events = optional(list(string))
    owners = optional(map(string))
    routes = optional(map(object({
      owners = optional(list(string))
      groups = optional(list(string))
      tags   = optional(list(string))
    })))
  }))
  default   = {}
  sensitive = true

  validation {
    condition     = length(setsubtract(nonsensitive(keys(var.notices)), keys(var.targets))) == 0
    error_message = "Notices belong to one of the targets."
  }

  validation {
    condition = alltrue(flatten([
      for notices in values(var.notices) : [
        for receiver in values(notices.receivers) : contains(["slack", "teams", "discord", "webhook", "email"], receiver.type)
      ]
    ]))
    error_message = "A receiver's type is one of slack, teams, discord, webhook, email."
  }
}
