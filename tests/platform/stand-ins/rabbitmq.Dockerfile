# Stands in for the official image where no image registry is reachable: RabbitMQ of the distribution, same port and variables.
ARG BASE_IMAGE=debian:trixie-slim
FROM ${BASE_IMAGE}
RUN apt-get update && apt-get install --yes --no-install-recommends rabbitmq-server && rm -rf /var/lib/apt/lists/* \
 && printf '[rabbitmq_management,rabbitmq_prometheus].' > /etc/rabbitmq/enabled_plugins \
 && printf 'listeners.tcp.default = 5672\nloopback_users = none\n' > /etc/rabbitmq/rabbitmq.conf \
 && install -d -o rabbitmq -g rabbitmq /var/lib/rabbitmq
USER rabbitmq
ENV HOME=/var/lib/rabbitmq
EXPOSE 5672 15672 15692
ENTRYPOINT ["/bin/sh", "-c", "exec /usr/lib/rabbitmq/bin/rabbitmq-server"]
