// A client of kaasq on amqplib: publishes requests as JSON and awaits their replies. docs/protocol.md has the format.
import { randomUUID } from 'node:crypto';
import amqp from 'amqplib';
import { KaasqError } from './error.mjs';

export { decode, encode } from './arrays.mjs';
export { KaasqError };

const DIRECT = 'amq.rabbitmq.reply-to';
const CONNECT_TIMEOUT_MS = 10_000;
const RUN_TIMEOUT_MS = 60_000;
const GRACE_MS = 1_000; // beyond a request's deadline, for the worker to say that it passed

/** One connection, one reply address. `Client.connect` makes it. After broker_lost, connect anew and repeat by id. */
export class Client {
  #connection;
  #channel;
  #user;
  #pool;
  #replyTo;
  #lost = null; // why nothing can be sent any more
  #pending = new Map(); // correlation id -> how to settle the promise
  #hashes = new WeakMap(); // graph -> the hash by which the workers know it

  /** `direct`: replies by RabbitMQ's direct reply-to instead of a queue of the client's own. */
  static async connect(url, { pool = 'default', direct = false, timeoutMs = CONNECT_TIMEOUT_MS } = {}) {
    const client = new Client();
    client.#user = decodeURIComponent(new URL(url).username || 'guest');
    client.#pool = pool;
    client.#connection = await amqp.connect(url, { timeout: timeoutMs, noDelay: true }).catch((error) => {
      const code = error.message.startsWith('Handshake') ? 'broker_refused' : 'broker_lost';
      throw new KaasqError(code, `cannot connect to ${new URL(url).host}: ${error.message || error.code}`);
    });
    await client.#open(direct);
    return client;
  }

  async #open(direct) {
    this.#connection.on('error', (error) => this.#fail('broker_lost', error.message));
    this.#connection.on('close', () => this.#fail('broker_lost', 'the connection was closed'));
    this.#channel = await this.#connection.createConfirmChannel();
    this.#channel.on('error', (error) => this.#fail('broker_refused', error.message));
    this.#channel.on('return', ({ properties }) =>
      this.#pending.get(properties.correlationId)?.reject(
        new KaasqError('unroutable', `no worker ever served pool ${this.#pool} for user ${this.#user}`),
      ),
    );
    for (const exchange of ['kaasq.requests', 'kaasq.replies', 'kaasq.events', 'kaasq.control']) {
      await this.#channel.assertExchange(exchange, 'topic', { durable: true });
    }
    this.#replyTo = direct ? DIRECT : `node-${randomUUID()}`;
    const onReply = (message) => this.#onReply(message);
    if (direct) {
      await this.#channel.consume(DIRECT, onReply, { noAck: true });
    } else {
      await this.#subscribe(`kaasq.reply.${this.#user}.${this.#replyTo}`, 'kaasq.replies', this.#replyTo, onReply);
    }
  }

  /**
   * Run a request and await its reply. The graph travels whole once, then by its hash.
   * Give the same `id` to repeat a request: what ran already is answered, not run again.
   * Throws KaasqError: what a reply with an error says, unroutable, reply_timeout, broker_lost, broker_refused.
   */
  async run({ graph, ...rest }, { id = randomUUID(), timeoutMs = RUN_TIMEOUT_MS } = {}) {
    const deadline = Date.now() + timeoutMs;
    const hash = this.#hashes.get(graph);
    let reply = await this.#call({ ...rest, graph: hash ?? graph }, id, deadline);
    if (hash && reply.error?.code === 'unknown_graph') reply = await this.#call({ ...rest, graph }, id, deadline);
    if (reply.graph) this.#hashes.set(graph, reply.graph);
    if (reply.status !== 'ok') throw new KaasqError(reply.error.code, reply.error.message, reply.error.detail);
    return reply;
  }

  /** Tell the pool that the request with this id is not to run, or not any further; its reply then says cancelled. */
  async cancel(id) {
    await this.#publish('kaasq.control', this.#pool, { cancel: id }, { messageId: randomUUID() });
  }

  /** Call `listener({ type, subject, data })` for every event of graphs that match, such as `images.*.failed` or `#`. */
  async events(pattern, listener) {
    await this.#subscribe(`kaasq.events.${this.#user}.${randomUUID()}`, 'kaasq.events', pattern, (message) => {
      const { cloudEvents_type: type, cloudEvents_subject: subject } = message.properties.headers;
      listener({ type, subject, data: JSON.parse(message.content) });
    });
  }

  async close() {
    this.#fail('broker_lost', 'the client was closed');
    await this.#connection.close().catch(() => {}); // of a lost connection nothing is left to close
  }

  #call(body, id, deadline) {
    const correlationId = randomUUID();
    const leftMs = Math.max(1, deadline - Date.now());
    return new Promise((resolve, reject) => {
      const late = () => reject(new KaasqError('reply_timeout', `no reply to ${id} in time; its outcome keeps its id`));
      const timer = setTimeout(late, leftMs + GRACE_MS);
      this.#pending.set(correlationId, { resolve, reject, timer });
      this.#publish('kaasq.requests', `${this.#pool}.any`, body, {
        messageId: id,
        correlationId,
        replyTo: this.#replyTo,
        expiration: leftMs,
        mandatory: true,
      }).catch(reject);
    }).finally(() => {
      clearTimeout(this.#pending.get(correlationId).timer);
      this.#pending.delete(correlationId);
    });
  }

  /** Resolves once the broker has taken responsibility. Keys begin with the user: that is how RabbitMQ keeps tenants apart. */
  #publish(exchange, key, body, options) {
    return new Promise((resolve, reject) => {
      if (this.#lost) throw this.#lost;
      const content = Buffer.from(JSON.stringify({ kaasq: 1, ...body }));
      const properties = {
        userId: this.#user,
        contentType: 'application/json',
        persistent: true,
        headers: { timestamp_in_ms: Date.now() },
        ...options,
      };
      this.#channel.publish(exchange, `${this.#user}.${key}`, content, properties, (error) =>
        error ? reject(this.#lost ?? new KaasqError('broker_refused', `the broker did not take it: ${error.message}`)) : resolve(),
      );
    });
  }

  async #subscribe(queue, exchange, key, onMessage) {
    await this.#channel.assertQueue(queue, { exclusive: true, durable: false });
    await this.#channel.bindQueue(queue, exchange, `${this.#user}.${key}`);
    await this.#channel.consume(queue, onMessage, { noAck: true });
  }

  #onReply(message) {
    if (message === null) return this.#fail('broker_lost', 'the reply queue was deleted');
    this.#pending.get(message.properties.correlationId)?.resolve(JSON.parse(message.content));
  }

  #fail(code, message) {
    this.#lost ??= new KaasqError(code, message);
    for (const { reject } of this.#pending.values()) reject(this.#lost);
  }
}
