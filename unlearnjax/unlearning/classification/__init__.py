"""Methods that need an axis of labels; their public names are those of `unlearnjax.unlearning`."""
