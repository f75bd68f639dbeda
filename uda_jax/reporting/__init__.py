"""What finished runs come to: a table, figures and a page."""
