"""What kaasq is measured beside: the same work, written by hand or with another library."""
