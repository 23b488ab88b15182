"""The report, as files for people (HTML) and programs (JSON, Parquet)."""
