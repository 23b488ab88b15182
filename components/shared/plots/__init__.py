"""Plots in the HTML pages of several steps: inline SVG in the colours of the surrounding page."""
