"""Decodes picture files in child processes."""
