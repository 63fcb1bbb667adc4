// The Node.js client against a real worker. Run by tests/integration/test_other_languages.py, which sets the variables.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { afterEach, test as timeless } from 'node:test';
import { Client, KaasqError, decode, encode } from '../../examples/nodejs/kaasq.mjs';

const URL = process.env.KAASQ_BROKER_URL;
const POOL = process.env.KAASQ_POOL;
const MODES = [{ direct: false }, { direct: true }];
const open = [];
const test = (name, body) => timeless(name, { timeout: 20_000 }, body);

async function connect(options = {}) {
  const client = await Client.connect(URL, { pool: POOL, ...options });
  open.push(client);
  return client;
}

afterEach(() => Promise.all(open.splice(0).map((client) => client.close())));

function only(name, body) {
  return {
    name,
    buffers: [{ name: 'out', role: 'output', dtype: 'int32', shape: [2] }],
    modules: { m: { source: `extern "C" __global__ void k(volatile int* out) { ${body} }` } },
    launches: [{ module: 'm', kernel: 'k', args: ['out'] }],
  };
}

const failsWith = (code, pattern = /./) => (error) =>
  error instanceof KaasqError && error.code === code && pattern.test(error.message);

for (const mode of MODES) {
  test(`a graph travels whole once, then by its hash ${JSON.stringify(mode)}`, async () => {
    const client = await connect(mode);
    const graph = only('once', 'out[0] = 5; out[1] = -1;');
    const first = await client.run({ graph });
    const second = await client.run({ graph });
    assert.deepEqual([...decode(first.outputs.out)], [5, -1]);
    assert.deepEqual([...decode(second.outputs.out)], [5, -1]);
    assert.match(first.graph, /^[0-9a-f]{64}$/);
    assert.equal(second.graph, undefined);
  });

  test(`a graph that the worker forgot is sent whole again ${JSON.stringify(mode)}`, async () => {
    const client = await connect(mode);
    const graph = only('forgotten', 'out[0] = 6;');
    const { graph: hash } = await client.run({ graph });
    const crash = only('crash', '*(volatile int*)8 = 1;');
    await assert.rejects(client.run({ graph: crash }), failsWith('kernel_failed')); // takes the executor along
    const again = await client.run({ graph });
    assert.equal(again.graph, hash); // which only a request with the graph whole brings
    assert.deepEqual([...decode(again.outputs.out)], [6, 0]);
  });

  test(`many requests at once get their own answers ${JSON.stringify(mode)}`, async () => {
    const client = await connect(mode);
    const graph = {
      name: 'many',
      buffers: [{ name: 'x', role: 'inout', dtype: 'float64', shape: [1] }],
      scalars: [{ name: 'a', dtype: 'int32' }],
      modules: { m: { source: 'extern "C" __global__ void k(double* x, int a) { x[0] += a; }' } },
      launches: [{ module: 'm', kernel: 'k', args: ['x', 'a'] }],
    };
    const run = (a) => client.run({ graph, bind: { x: encode(Float64Array.of(0.5)) }, scalars: { a } });
    const replies = await Promise.all(Array.from({ length: 50 }, (_, a) => run(a)));
    assert.deepEqual(replies.map((reply) => decode(reply.outputs.x)[0]), Array.from({ length: 50 }, (_, a) => a + 0.5));
  });
}

test('an error reply is thrown with its code and fields', async () => {
  const client = await connect();
  const graph = only('wrong', '');
  graph.launches[0].block = 0;
  await assert.rejects(client.run({ graph }), (error) => {
    assert.equal(error.code, 'bad_request');
    assert.match(error.message, /block\.x is 0/);
    assert.equal(error.detail.at, 'graph.launches[0] (k)');
    return true;
  });
});

test('a pool that nobody ever served is unroutable, at once', async () => {
  const client = await connect({ pool: `none-${randomUUID()}` });
  await assert.rejects(client.run({ graph: only('nowhere', '') }), failsWith('unroutable'));
});

test('a kernel beyond its deadline is stopped, and the next request served', async () => {
  const client = await connect();
  const endless = only('endless', 'while (out[0] == 0) out[1] = out[1] + 1;');
  await assert.rejects(client.run({ graph: endless }, { timeoutMs: 2000 }), failsWith('deadline_exceeded'));
  const reply = await client.run({ graph: only('after', 'out[0] = 7;') });
  assert.equal(decode(reply.outputs.out)[0], 7);
});

test('no reply in time is a timeout', async () => {
  const client = await connect({ pool: process.env.KAASQ_DESERTED_POOL }); // has a queue, but no worker
  await assert.rejects(client.run({ graph: only('waiting', '') }, { timeoutMs: 200 }), failsWith('reply_timeout'));
});

test('a repeated id is answered from its outcome, with another body refused', async () => {
  const client = await connect();
  const id = randomUUID();
  const graph = only('repeated', 'out[0] = 8;');
  const first = await client.run({ graph }, { id });
  const second = await client.run({ graph }, { id });
  assert.equal(second.timings.load, first.timings.load); // that of the first run: there was no second
  await assert.rejects(client.run({ graph: only('other', '') }, { id }), failsWith('conflict'));
});

test('a cancelled request does not run', async () => {
  const client = await connect();
  const id = randomUUID();
  const endless = only('cancelled', 'while (out[0] == 0) out[1] = out[1] + 1;');
  const running = assert.rejects(client.run({ graph: endless }, { id }), failsWith('cancelled'));
  await client.cancel(id);
  await running;
});

test('a requester that goes away harms nobody, and its event is still told', async () => {
  const slow = only('gone', 'for (int i = 0; i < 100000000; i++) out[1] = i;');
  for (const mode of MODES) {
    const [client, gone] = [await connect(), await connect(mode)];
    const id = randomUUID();
    let tell;
    const told = new Promise((resolve) => (tell = resolve));
    await client.events('gone.*', (event) => event.data.id === id && tell(event));
    const left = assert.rejects(gone.run({ graph: slow }, { id }), failsWith('broker_lost'));
    await gone.cancel(randomUUID()); // something that is confirmed after the request: the broker has it
    await gone.close();
    await left;
    const event = await told;
    assert.equal(event.type, 'kaasq.request.completed');
    assert.equal(event.subject, 'gone');
    assert.equal(event.data.outputs.out.inline, undefined);
    const reply = await client.run({ graph: only('next', 'out[0] = 10;') });
    assert.equal(decode(reply.outputs.out)[0], 10);
  }
});

test('what a client cannot send any more is refused at once', async () => {
  const client = await connect();
  await client.close();
  await assert.rejects(client.run({ graph: only('late', '') }), failsWith('broker_lost', /closed/));
});

test('a broker that is not there, and one that refuses, are told apart', async () => {
  await assert.rejects(Client.connect('amqp://guest:guest@127.0.0.1:1/'), failsWith('broker_lost', /127\.0\.0\.1:1/));
  const wrong = URL.replace(/\/\/.*@/, '//guest:wrong@');
  await assert.rejects(Client.connect(wrong), failsWith('broker_refused', /refused/i));
});
