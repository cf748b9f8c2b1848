"""Both training stages: data, order, loss bookkeeping, gates, telemetry and resume."""
