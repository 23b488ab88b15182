"""The pipeline on a KFP server."""
