"""From the exchange to Kafka: credentials, REST, the registry of markets, sockets, snapshot polls."""
