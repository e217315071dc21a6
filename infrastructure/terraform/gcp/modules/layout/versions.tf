# No provider: what is decided here can be tested on any machine, without Google and without a plan.
terraform {
  required_version = ">= 1.9"
}
