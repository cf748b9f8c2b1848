"""Comparison of arms: statistics, the contract between arms, and the report."""
