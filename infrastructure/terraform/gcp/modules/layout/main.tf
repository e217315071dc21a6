locals {
  targets = {
    for name, target in var.targets : name => merge(target, {
      project  = coalesce(target.project, var.project)
      location = coalesce(target.location, var.location)
      dataset  = coalesce(target.dataset, replace(name, "-", "_"))
      account  = "dbt-${name}"
    })
  }

  emails = {
    for name, target in local.targets :
    name => "${target.account}@${target.project}.iam.gserviceaccount.com"
  }

  # As IAM names the objects of the state bucket.
  state_objects = "projects/_/buckets/${var.state_bucket}/objects"

  # dbt's own dataset, and one a layer beside it, as dbt_project.yml lays them out. A target that builds
  # pull requests makes a dataset for each by itself.
  built = merge([
    for name, target in local.targets : {
      for dataset in concat([target.dataset], [for layer in var.layers : "${target.dataset}_${layer}"]) :
      "${target.project}.${dataset}" => {
        project             = target.project
        dataset             = dataset
        location            = target.location
        table_expiration_ms = target.table_expiration_days == null ? null : target.table_expiration_days * 86400000
        writers             = [local.emails[name]]
        readers             = sort([for other, beside in local.targets : local.emails[other] if beside.compares_with == name])
        labels              = { managed-by = "terraform", target = name }
      }
    } if target.compares_with == null
  ]...)

  raw_places = {
    for place in distinct([
      for name, target in local.targets : { project = target.project, location = target.location } if target.ingests
    ]) : place.project => place.location
  }

  # What is loaded lies once in a project, for all of its targets. dlt replaces a table by way of a
  # dataset beside it, which it empties itself.
  raw = merge([
    for project, location in local.raw_places : {
      for dataset in flatten([for source in var.sources : ["raw_${source}", "raw_${source}_staging"]]) :
      "${project}.${dataset}" => {
        project             = project
        dataset             = dataset
        location            = location
        table_expiration_ms = null
        writers = sort([
          for name, target in local.targets : local.emails[name] if target.project == project && target.ingests
        ])
        readers = sort([
          for name, target in local.targets : local.emails[name] if target.project == project && !target.ingests
        ])
        labels = { managed-by = "terraform", layer = "raw" }
      }
    }
  ]...)

  datasets = merge(local.built, local.raw)
}
