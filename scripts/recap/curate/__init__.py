"""Curation: validate, split, measure, select, merge and convert records.

Nothing here imports Data-Juicer, torch or pyarrow at import time, so the
workflow may read recipes while it is parsed.
"""
