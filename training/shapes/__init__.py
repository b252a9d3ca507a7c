"""
The small latent-diffusion model `pictor/shapes`: its pictures, its training, its evaluation.
"""
