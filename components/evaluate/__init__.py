"""The evaluate step: transcribes held-out pages with base and adapter, and says with intervals which reads better."""
