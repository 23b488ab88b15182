"""Which page is read next: a bounded queue that is fair between clients."""
