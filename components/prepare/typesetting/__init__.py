"""Text engines and fonts: line breaking, shaping, drawing, and the characters that fonts cover."""
