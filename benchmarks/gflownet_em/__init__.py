"""The speed of GFlowNet-EM's discrete VAE: ours against a plain textbook loop, and against a user's own checkout of the published code."""
