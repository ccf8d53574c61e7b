"""A folder of runs as a table and a page: ``python -m qatlab.report FOLDER [-o report.html]``."""
