"""A RabbitMQ of one's own: a private node of the installed package, and its management API. The tests use it, too."""
