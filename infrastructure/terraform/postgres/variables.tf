variable "targets" {
  description = "Target's name => an existing Postgres server, and the schema dbt builds into."
  type = map(object({
    host     = string
    port     = optional(number, 5432)
    database = string
    user     = string
    schema   = string
    threads  = optional(number, 4)
    sslmode  = optional(string)
    publish  = optional(bool)
  }))

  validation {
    condition     = length(var.targets) > 0
    error_message = "There has to be at least one target."
  }

  validation {
    condition = alltrue([
      for name in keys(var.targets) :
      can(regex("^[a-z][a-z0-9]*([-_][a-z0-9]+)*$", name)) && length(name) <= 40
    ])
    error_message = "A target's name is at most 40 lowercase letters and digits with single dashes or underscores between them, beginning with a letter: it becomes part of a block's name."
  }

  validation {
    condition = alltrue([
      for target in values(var.targets) :
      alltrue([for text in [target.host, target.database, target.user, target.schema] : length(text) > 0])
    ])
    error_message = "host, database, user and schema of a target must not be empty."
  }

  validation {
    condition = alltrue([
      for target in values(var.targets) :
      target.port >= 1 && target.port <= 65535 && floor(target.port) == target.port
    ])
    error_message = "A port is a whole number from 1 to 65535."
  }

  validation {
    condition = alltrue([
      for target in values(var.targets) : target.threads >= 1 && floor(target.threads) == target.threads
    ])
    error_message = "threads is a whole number, at least 1."
  }

  validation {
    condition = alltrue([
      for target in values(var.targets) : contains(
        ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
        coalesce(target.sslmode, "prefer")
      )
    ])
    error_message = "sslmode is one of disable, allow, prefer, require, verify-ca, verify-full."
  }
}

variable "passwords" {
  description = "Target's name => password. A target without one uses what its machine offers: a trusted socket, PG* variables, .pgpass. What is given here stands in Terraform's state."
  type        = map(string)
  default     = {}
  sensitive   = true

  validation {
    condition     = length(setsubtract(nonsensitive(keys(var.passwords)), keys(var.targets))) == 0
    error_message = "Every password belongs to one of the targets."
  }

  validation {
    condition     = alltrue([for password in values(var.passwords) : length(password) > 0])
    error_message = "A password must not be empty; leave the target out instead."
  }
}

variable "state_url" {
  description = "Where run state and docs are kept: gs://bucket/folder, s3://bucket/folder, or a folder; .local/state of the machine when null. Without a login: the block state-store-login has it."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^((gs|s3)://[A-Za-z0-9][^@?#]*|[^:@]+)$", coalesce(var.state_url, "valid")))
    error_message = "state_url is gs://bucket/folder, s3://bucket/folder or a folder, without a login."
  }
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
