"""The front: the half of a worker that speaks AMQP and never touches the device."""
