"""The device process: draws, one denoising step at a time. The only place that imports torch."""
