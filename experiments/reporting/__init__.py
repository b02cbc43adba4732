"""A report made from result files alone: tables as data, their Markdown and HTML, and figures."""
