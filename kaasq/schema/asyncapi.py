"""The AsyncAPI 3.0 document: a pool of workers as a service on RabbitMQ, its channels, operations and messages."""

from __future__ import annotations

from typing import Any

from kaasq.codec import JSON
from kaasq.messages import EVENT_WORDS, PROTOCOL_VERSION
from kaasq.names import GRAPH_NAME, WORD
from kaasq.schema import properties
from kaasq.schema.definitions import definitions
from kaasq.schema.documents import event
from kaasq.schema.examples import examples
from kaasq.topology import CONTROL, EVENTS, REPLIES, REQUESTS

Schema = dict[str, Any]

VERSION = "3.0.0"
_BINDING = "0.3.0"  # of AMQP 0-9-1
_PLACE = "#/components/schemas"
_DIRECT = "amq.rabbitmq.reply-to"
_TAKEN = ("request", "kaasRequest", "workflow", "flow", "flows", "step")
"""The messages that one worker of a pool takes."""


def asyncapi() -> Schema:
    """The document, with every type and an example of each message in it."""
    return {
        "asyncapi": VERSION,
        "id": f"urn:kaasq:{PROTOCOL_VERSION}",
        "info": {
            "title": "kaasq",
            "version": str(PROTOCOL_VERSION),
            "description": "Kernel-as-a-Service over RabbitMQ: publish a graph of kernels, get its outputs back. "
            "The document is that of a pool of workers; a program that publishes requests does the opposite.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": JSON,
        "servers": {
            "rabbitmq": _server("amqp", "RabbitMQ, 3.10 to 4.x."),
            "rabbitmqTls": _server("amqps", "The same over TLS."),
        },
        "channels": _channels(),
        "operations": _operations(),
        "components": {
            "messages": _messages(),
            "schemas": definitions(_PLACE),
            "securitySchemes": {"user": {"type": "userPassword", "description": "RabbitMQ's user is the tenant."}},
        },
    }


def _server(protocol: str, description: str) -> Schema:
    return {
        "host": "{host}",
        "pathname": "/{vhost}",
        "protocol": protocol,
        "protocolVersion": "0-9-1",
        "description": description,
        "variables": {
            "host": {"default": "localhost", "description": "With its port, if it is not the usual one."},
            "vhost": {"default": "%2F", "description": "The virtual host, percent-encoded."},
        },
        "security": [{"$ref": "#/components/securitySchemes/user"}],
    }


def _channels() -> Schema:
    tenant = {"description": f"The user that sent the request: {WORD.pattern}", "location": "$message.header#/user_id"}
    return {
        "requests": {
            "address": "{tenant}.{pool}.any",
            "title": "Requests to a pool",
            "description": "Publish with `mandatory`: what comes back has no pool to go to.",
            "parameters": {"tenant": tenant, "pool": {"description": f"The pool of workers: {WORD.pattern}"}},
            **_exchange(REQUESTS, *_TAKEN),
        },
        "replies": {
            "address": "{tenant}.{replyId}",
            "title": "Replies to a reply id",
            "description": "Bind a queue of your own under this key before you publish.",
            "parameters": {
                "tenant": {"description": tenant["description"]},
                "replyId": {"description": f"The request's reply_to: {WORD.pattern}"},
            },
            **_exchange(REPLIES, "reply"),
        },
        "directReplies": {
            "address": None,
            "title": "RabbitMQ's direct reply-to",
            "description": f"Consume from {_DIRECT} without acknowledgements, on the channel that publishes.",
            "messages": {"reply": {"$ref": "#/components/messages/reply"}},
            "bindings": {
                "amqp": {
                    "is": "queue",
                    "queue": {"name": _DIRECT, "durable": False, "exclusive": True, "autoDelete": True},
                    "bindingVersion": _BINDING,
                }
            },
        },
        "events": {
            "address": "{tenant}.{graph}.{word}",
            "title": "How requests ended",
            "description": "CloudEvents 1.0 in AMQP's binary mode, for whoever binds a queue.",
            "parameters": {
                "tenant": {"description": tenant["description"]},
                "graph": {"description": f"The graph's name: {GRAPH_NAME.pattern}"},
                "word": {"description": "How it ended.", "enum": list(EVENT_WORDS.values())},
            },
            **_exchange(EVENTS, "event"),
        },
        "control": {
            "address": "{tenant}.{pool}",
            "title": "What all workers of a pool are told",
            "parameters": {"tenant": tenant, "pool": {"description": f"The pool of workers: {WORD.pattern}"}},
            **_exchange(CONTROL, "cancel"),
        },
    }


def _exchange(name: str, *messages: str) -> Schema:
    exchange = {"name": name, "type": "topic", "durable": True, "autoDelete": False}
    return {
        "messages": {each: {"$ref": f"#/components/messages/{each}"} for each in messages},
        "bindings": {"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": _BINDING}},
    }


def _operations() -> Schema:
    run = _received("request", "kaasRequest")
    return {
        "run": {
            **run,
            "title": "Run a graph",
            "summary": "The reply goes to the queue that the producer bound to its reply id.",
            "reply": _reply("replies"),
        },
        "runDirect": {
            **run,
            "title": "Run a graph, direct reply-to",
            "summary": "The reply goes to the channel that published.",
            "reply": {"address": {"location": "$message.header#/reply_to"}, **_reply("directReplies")},
        },
        "start": {
            **_received("workflow"),
            "title": "Start a workflow",
            "summary": "The reply comes when it has ended, or when it has begun, as the start says.",
            "reply": _reply("replies"),
        },
        "ask": {
            **_received("flow"),
            "title": "Ask for a workflow",
            "summary": "The reply comes at once with its status, or when it has ended.",
            "reply": _reply("replies"),
        },
        "list": {
            **_received("flows"),
            "title": "List workflows",
            "summary": "The reply comes at once, with those of the tenant that the pool knows, the latest first.",
            "reply": _reply("replies"),
        },
        "step": {
            **_received("step"),
            "title": "Run a step of a workflow",
            "summary": "Workers of the pool send these to each other; nobody else does.",
        },
        "cancel": {
            "action": "receive",
            "title": "Cancel a request",
            "channel": {"$ref": "#/channels/control"},
            "messages": [{"$ref": "#/channels/control/messages/cancel"}],
        },
        "tell": {
            "action": "send",
            "title": "Tell how a request ended",
            "channel": {"$ref": "#/channels/events"},
            "messages": [{"$ref": "#/channels/events/messages/event"}],
        },
    }


def _received(*messages: str) -> Schema:
    return {
        "action": "receive",
        "channel": {"$ref": "#/channels/requests"},
        "messages": [{"$ref": f"#/channels/requests/messages/{each}"} for each in messages],
        "bindings": {"amqp": {"ack": True, "bindingVersion": _BINDING}},
    }


def _reply(channel: str) -> Schema:
    return {
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/reply"}],
    }


def _messages() -> Schema:
    shown = examples()

    def message(name: str, title: str, headers: Schema, payload: Schema) -> Schema:
        return {
            "name": name,
            "title": title,
            "contentType": JSON,
            "headers": headers,
            "payload": payload,
            "correlationId": {"location": "$message.header#/correlation_id"},
            "examples": shown[name],
        }

    return {
        "request": message("request", "A request", properties.REQUEST, {"$ref": f"{_PLACE}/Request"}),
        "kaasRequest": message(
            "kaasRequest", "A request in the KaaS format", properties.REQUEST, {"$ref": f"{_PLACE}/KaasRequest"}
        ),
        "workflow": message("workflow", "The start of a workflow", properties.REQUEST, {"$ref": f"{_PLACE}/FlowStart"}),
        "flow": message("flow", "A question about a workflow", properties.REQUEST, {"$ref": f"{_PLACE}/FlowCall"}),
        "flows": message("flows", "Which workflows are there?", properties.REQUEST, {"$ref": f"{_PLACE}/FlowsCall"}),
        "step": message("step", "A step of a workflow that is due", properties.REQUEST, {"$ref": f"{_PLACE}/StepCall"}),
        "cancel": message("cancel", "A cancellation", properties.CANCEL, {"$ref": f"{_PLACE}/Cancel"}),
        "reply": message("reply", "Its reply", properties.REPLY, {"$ref": f"{_PLACE}/Reply"}),
        "event": message("event", "Its event", properties.EVENT, event(_PLACE)),
    }
