"""Text comparison: normalisation, edit counts, bootstrap intervals, the sign test."""
