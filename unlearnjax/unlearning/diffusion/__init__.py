"""Methods for diffusion models; their public names are those of `unlearnjax.unlearning`."""
