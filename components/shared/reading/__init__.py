"""A loaded model reads pages."""
