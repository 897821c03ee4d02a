"""What a run will take, before anything runs: jobs, requests, tokens, hours, disk, memory; as plain values and a page."""
