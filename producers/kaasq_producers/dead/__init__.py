"""``kaasq dead``: looks at the dead letters, publishes them again, takes them elsewhere, drops them."""
