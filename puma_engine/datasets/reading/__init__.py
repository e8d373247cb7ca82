"""Reading delimited files, JSON lines and Parquet, with every dropped row counted by reason."""
