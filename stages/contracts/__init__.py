"""What every stage keeps: its command line, its errors, keys and seeds, Parquet contracts, provenance."""
