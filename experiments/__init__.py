"""The edge of the project: flags, files, clocks, printing, plots. Nothing in `camu_jax` imports it."""
