"""The weights that Pupila's training starts from without a network: backbone.safetensors, beside this file.

within.safetensors: how its features vary within the classes of many pictures.
"""
