"""Figures written for people and programs."""
