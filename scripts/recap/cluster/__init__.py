"""What a SLURM cluster does to jobs, and what the pipeline does about it."""
