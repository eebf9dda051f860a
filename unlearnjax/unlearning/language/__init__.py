"""Methods for what is said in answer; their public names are those of `unlearnjax.unlearning`."""
