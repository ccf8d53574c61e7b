"""A folder of runs as a table and a page: ``qatlab report FOLDER [-o report.html]``."""
