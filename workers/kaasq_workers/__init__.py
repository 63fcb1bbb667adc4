"""The worker: takes requests from the broker and runs them on a device."""
