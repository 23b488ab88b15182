"""The evaluate step: transcribes held-out pages with base and adapter and reports, with intervals, which is better."""
