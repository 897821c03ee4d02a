"""Training on Megatron-core: model, weights, batches, losses and the loop. The only package that imports Megatron."""

import warnings

# Apex and Transformer Engine are optional; Megatron says so once per module and process.
warnings.filterwarnings("ignore", message=".*(Apex|Transformer Engine).*not installed.*")
