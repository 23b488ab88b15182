"""The export step: packs the adapter so that it works alone, with model card and lineage, and checks that it does."""
