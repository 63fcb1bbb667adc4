"""What drives workflows: their state in the store, and what follows from each step that ends."""
