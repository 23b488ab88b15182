"""Programs that are copied into a package as they are; they import only its folder ``page_reader``."""
