"""Training on Megatron-core: model, weights, batches, losses and the loop. The only package that imports Megatron."""
