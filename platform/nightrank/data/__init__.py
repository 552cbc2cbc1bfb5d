"""Events in, CSR out."""
