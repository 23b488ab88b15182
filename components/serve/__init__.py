"""The inference service: reads pages over HTTP with a base model and its adapters."""
