// out = a x + y, by a pool of kaasq workers: npm ci && node saxpy.mjs [--direct]
import { randomUUID } from 'node:crypto';
import { Client, KaasqError, decode, encode } from './kaasq.mjs';

const n = 8;
const graph = {
  name: 'saxpy',
  buffers: [
    { name: 'x', role: 'input', dtype: 'float32', shape: [n], const: true },
    { name: 'y', role: 'input', dtype: 'float32', shape: [n], const: true },
    { name: 'out', role: 'output', dtype: 'float32', shape: [n] },
  ],
  scalars: [{ name: 'a', dtype: 'float32', default: 2 }],
  modules: {
    saxpy: {
      source: `extern "C" __global__ void saxpy(float a, const float* x, const float* y, float* out, int n)
      { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) out[i] = a * x[i] + y[i]; }`,
    },
  },
  launches: [
    {
      module: 'saxpy',
      kernel: 'saxpy',
      grid: Math.ceil(n / 256),
      block: 256,
      args: ['a', 'x', 'y', 'out', { dtype: 'int32', value: n }],
    },
  ],
};

async function main(client) {
  const ended = new Map(); // request id -> its event
  let tell;
  const told = new Promise((resolve) => (tell = resolve));
  const ids = [randomUUID(), randomUUID()];
  await client.events('saxpy.*', (event) => {
    ended.set(event.data.id, event);
    if (ids.every((id) => ended.has(id))) tell();
  });
  const bind = { x: encode(Float32Array.from({ length: n }, (_, i) => i)), y: encode(new Float32Array(n).fill(1)) };
  for (const id of ids) {
    const scalars = { a: id === ids[0] ? 2 : 10 };
    const reply = await client.run({ graph, bind, scalars }, { id, timeoutMs: 30_000 });
    const sent = reply.graph ? `whole, known as ${reply.graph.slice(0, 8)} from now on` : 'by its hash';
    console.log(`[${decode(reply.outputs.out).join(' ')}] from ${reply.worker.device}, the graph sent ${sent}`);
  }
  await told;
  for (const id of ids) console.log(`${ended.get(id).type} after ${ended.get(id).data.timings.total} us`);
}

const url = process.env.KAASQ_BROKER_URL ?? 'amqp://guest:guest@localhost:5672/';
const pool = process.env.KAASQ_POOL ?? 'default';
try {
  const client = await Client.connect(url, { pool, direct: process.argv.includes('--direct') });
  await main(client).finally(() => client.close());
} catch (error) {
  if (!(error instanceof KaasqError)) throw error;
  console.error(`${error.code}: ${error.message}`);
  process.exitCode = 1;
}
