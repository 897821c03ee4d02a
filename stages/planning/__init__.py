"""What Snakemake asks before it plans a run."""
