"""The commands of producers: ``kaasq run`` and those for the buffer store."""
