"""The package: what goes in, how it is made and tried."""
