"""Methods for what is learned of a graph, which the model carries and a request edits."""
