"""The verdict: what it is judged from, by which rules, and how it is written for a reader."""
