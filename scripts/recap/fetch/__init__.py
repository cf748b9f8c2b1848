"""Bringing models and data in: from ModelScope, the web, a mirror, or a folder filled by hand."""
