"""Documents that exist as pictures: PDFs, and scans with their texts beside them."""
