"""What prepares the ground: servers of this machine, Terraform's outputs, Prefect blocks."""
