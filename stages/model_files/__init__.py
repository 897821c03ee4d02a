"""A Hugging Face model directory: configuration, families, tensors, identity."""
