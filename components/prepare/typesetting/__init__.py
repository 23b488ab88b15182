"""Text engines and fonts: lines broken, shaped and drawn, and which characters can be."""
