"""Source files__inbox: loads CSV, JSON Lines and Parquet files from a folder or bucket."""
