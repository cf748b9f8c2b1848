"""Captioning: batched, deterministic, and never the same image twice."""
