# The contract between Terraform and setup: documentation/contract.md.

output "dbt_targets" {
  description = "Where each target is."
  value = {
    for name, target in var.targets : name => merge({ type = "postgres" }, {
      for key, value in target : key => value if value != null
    })
  }
}

output "dbt_target_secrets" {
  description = "The password of each target that has one."
  value       = { for name, password in var.passwords : name => { password = password } }
  sensitive   = true
}

output "state_url" {
  description = "Where run state and docs are kept."
  value       = var.state_url
}

output "dbt_target_notices" {
  description = "Who is notified about each target, and of which events."
  value       = var.notices
  sensitive   = true
}
