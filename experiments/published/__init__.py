"""Quirks of published code, one a file: what a faithful preset needs and no user of the library would want."""
