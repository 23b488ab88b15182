"""`deepsynth read`: files read without a service of one's own, or by one elsewhere."""
