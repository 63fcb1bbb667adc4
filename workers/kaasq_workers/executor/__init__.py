"""The executor: the half of a worker that owns device and store and never speaks AMQP."""
