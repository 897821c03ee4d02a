"""What a run will take, before anything runs: jobs, requests, tokens, hours, disk, memory; as values and a page."""
