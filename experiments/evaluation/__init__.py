"""From trained parameters to tables, files and pictures."""
