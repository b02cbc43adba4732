"""Models as a user would write them, for `--model.factory`."""
