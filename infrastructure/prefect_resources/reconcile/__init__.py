"""What setup commands share: what should be in Prefect, compared with what is; then written."""
