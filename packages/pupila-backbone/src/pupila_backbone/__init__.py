"""The weights that Pupila's training starts from without a network: backbone.safetensors, beside this file."""
