"""What is learnt: examples, batches, losses, objectives, validation, reports. Imports no Megatron."""
