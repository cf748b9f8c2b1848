"""What a run would do, why, how long it takes and what it costs; and what it did cost."""
