"""Evaluation: answers from a real model, gathered, and scored by exact protocols."""
