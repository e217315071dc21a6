output "datasets" {
  description = "<project>.<dataset> => where it is, how long its tables live, and whose service accounts write and read it."
  value       = local.datasets
}

output "grants" {
  description = "One a role on a dataset: <project>.<dataset> <role> <email> => the three."
  value = merge([
    for id, dataset in local.datasets : merge(
      { for email in dataset.writers : "${id} dataEditor ${email}" => { dataset = id, role = "roles/bigquery.dataEditor", email = email } },
      { for email in dataset.readers : "${id} dataViewer ${email}" => { dataset = id, role = "roles/bigquery.dataViewer", email = email } },
    )
  ]...)
}

output "service_accounts" {
  description = "Target's name => the service account that dbt works as."
  value = {
    for name, target in local.targets : name => {
      project    = target.project
      account_id = target.account
      email      = local.emails[name]
      create_key = target.create_key
      # What a target's runs go on from, its own account alone may write: another target's runs would
      # do what is written there. Code that nobody has read yet may write none of it.
      state_condition = target.compares_with != null ? null : join(" || ", concat(
        [for folder in ["targets", "runs"] : "resource.name.startsWith(\"${local.state_objects}/${folder}/${name}/\")"],
        # The page over all targets, which no run reads.
        ["resource.name == \"${local.state_objects}/index.html\""],
      ))
    }
  }
}

output "job_users" {
  description = "One a project in which a target runs jobs: dbt where they are paid for, dlt where the data is."
  value = merge([
    for name, target in local.targets : {
      for project in distinct(concat(
        [coalesce(target.execution_project, target.project)], target.ingests || target.compares_with != null || target.publish ? [target.project] : []
        )) : "${name} ${project}" => {
        target  = name
        project = project
        # For pull requests and for publishing, it may also make datasets, and write those that it made.
        role = (target.compares_with != null || target.publish) && project == target.project ? "roles/bigquery.user" : "roles/bigquery.jobUser"
      }
    }
  ]...)
}

output "impersonations" {
  description = "One a member that may work as a target's service account, without a key."
  value = merge([
    for name, target in local.targets : {
      for member in target.impersonators : "${name} ${member}" => { target = name, member = member }
    }
  ]...)
}

output "github" {
  description = "One a repository whose workflows may work as a target's service account."
  value = merge([
    for name, target in local.targets : {
      for repository in target.github_repositories : "${name} ${repository}" => { target = name, repository = repository }
    }
  ]...)
}

output "kubernetes" {
  description = "One a Kubernetes service account that may work as a target's service account."
  value = merge([
    for name, target in local.targets : {
      for account in target.kubernetes_service_accounts : "${name} ${account}" => {
        target  = name
        subject = "system:serviceaccount:${replace(account, "/", ":")}"
      }
    }
  ]...)
}

output "dbt_targets" {
  description = "The contract of documentation/contract.md."
  value = {
    for name, target in local.targets : name => {
      for key, value in {
        type                          = "bigquery"
        project                       = target.project
        dataset                       = target.dataset
        location                      = target.location
        execution_project             = target.execution_project
        threads                       = target.threads
        priority                      = target.priority
        maximum_bytes_billed          = target.maximum_bytes_billed
        job_execution_timeout_seconds = target.job_execution_timeout_seconds
        publish                       = target.publish ? true : null
        # With a key, dbt is the service account already.
        impersonate_service_account = target.impersonated && !target.create_key ? local.emails[name] : null
      } : key => value if value != null
    }
  }
}
