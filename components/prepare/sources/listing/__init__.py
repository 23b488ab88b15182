"""Lists the files of folders, with a marker for everything that is not read."""
