#!/usr/bin/env bash
# Run a kaasq request with curl and jq alone, over RabbitMQ's management API. Prints the reply; exits 1 if it is no success.
#
#   ./run.sh request.json | jq -r .outputs.out.inline | base64 -d | od -An -tf4
#
# Settings: KAASQ_MANAGEMENT_URL (http://localhost:15672), KAASQ_USER and KAASQ_PASSWORD (guest), KAASQ_VHOST (/),
# KAASQ_POOL (default), KAASQ_TIMEOUT (30 seconds). The user needs the tag "management". Publishing over HTTP is for trying
# things out: each call opens a connection. Where kaasq is installed, `kaasq run request.json` does the same over AMQP.
set -euo pipefail

die() {
    echo "run.sh: $*" >&2
    exit 1
}

for tool in curl jq; do
    command -v "$tool" >/dev/null || die "needs $tool: apt-get install $tool"
done
[[ $# == 1 && -r $1 ]] || die "expected one readable file with a request: ./run.sh request.json"
jq empty "$1" || die "$1 is not JSON"

api=${KAASQ_MANAGEMENT_URL:-http://localhost:15672}/api
user=${KAASQ_USER:-guest}
export KAASQ_PASSWORD=${KAASQ_PASSWORD:-guest}
vhost=$(jq -rn --arg name "${KAASQ_VHOST:-/}" '$name | @uri')
pool=${KAASQ_POOL:-default}
timeout=${KAASQ_TIMEOUT:-30}
id=$(cat /proc/sys/kernel/random/uuid)
queue=kaasq.reply.$user.$id

# call METHOD PATH: the JSON on standard input goes out, the answer comes back. The password stays off the command line.
call() {
    curl --silent --show-error --fail --max-time "$timeout" --request "$1" --header 'content-type: application/json' \
        --config <(jq -rn --arg user "$user" '"user = " + ("\($user):\(env.KAASQ_PASSWORD)" | tojson)') --data-binary @- "$api/$2"
}

# A queue for the reply, under a reply id that is the request's own. Left alone it is gone after a minute.
jq -n '{durable: true, arguments: {"x-expires": 60000}}' | call PUT "queues/$vhost/$queue" >/dev/null ||
    die "cannot declare a queue at $api as $user: is the management plugin on, and the user tagged 'management'?"
trap 'call DELETE "queues/$vhost/$queue" </dev/null >/dev/null || true' EXIT
jq -n --arg key "$user.$id" '{routing_key: $key}' | call POST "bindings/$vhost/e/kaasq.replies/q/$queue" >/dev/null ||
    die "cannot bind to kaasq.replies: the first worker makes it; has one been started in this vhost?"

# user_id is the tenant, and verified: another one than KAASQ_USER is refused. The expiration is the request's deadline.
# The body goes as the text it is: jq would round whole numbers beyond 2^53.
routed=$(jq -n --rawfile body "$1" --arg user "$user" --arg id "$id" --arg pool "$pool" --arg ms "$((timeout * 1000))" '{
    routing_key: "\($user).\($pool).any",
    properties: {user_id: $user, message_id: $id, reply_to: $id, expiration: $ms,
                 content_type: "application/json", delivery_mode: 2},
    payload: $body, payload_encoding: "string"
}' | call POST "exchanges/$vhost/kaasq.requests/publish" | jq .routed) ||
    die "cannot publish to kaasq.requests as $user; RabbitMQ's log says why"
[[ $routed == true ]] || die "unroutable: no worker ever served pool $pool"

deadline=$((SECONDS + timeout + 1)) # a second for the worker to say that the time was over
while ((SECONDS < deadline)); do
    reply=$(jq -n '{count: 1, ackmode: "ack_requeue_false", encoding: "auto"}' | call POST "queues/$vhost/$queue/get" |
        jq -r '.[0].payload // empty')
    if [[ $reply ]]; then
        printf '%s\n' "$reply"
        [[ $(jq -r .status <<<"$reply") == ok ]] && exit 0
        exit 1
    fi
    sleep 0.1
done
die "no reply in $timeout s: are the workers of pool $pool running?"
