"""The gate step: decides from an evaluation whether the new adapter replaces the champion, or the base."""
