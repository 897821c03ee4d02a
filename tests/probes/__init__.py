"""Programs that tests run under torchrun, or that are killed."""
