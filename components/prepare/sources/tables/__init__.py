"""Documents from the rows of files: JSON lines, Parquet, WebDataset shards."""
