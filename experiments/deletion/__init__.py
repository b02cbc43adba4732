"""Deletion of rows as a command: the request's rows, the work, the folder with the receipt, and its verification."""
