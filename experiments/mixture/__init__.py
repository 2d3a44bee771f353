"""The hierarchical Gaussian mixture of GFlowNet-EM (Hu et al., 2023, section 5.1): two sites of four codes, so that every posterior can be enumerated."""
