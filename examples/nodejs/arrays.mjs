// Typed arrays as kaasq's buffers, and back.
import { KaasqError } from './error.mjs';

const ARRAYS = {
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint16: Uint16Array,
  uint32: Uint32Array,
  uint64: BigUint64Array,
  float32: Float32Array,
  float64: Float64Array,
};

/** A typed array's bytes as `bind` takes them. Workers and nearly every machine with Node are little-endian. */
export const encode = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString('base64');

/** An output of a reply as a typed array; as bytes where its dtype has none. Its `shape` stays with the output. */
export function decode({ inline, dtype, ref, nbytes }) {
  if (inline === undefined) {
    const where = `${nbytes} bytes lie in the store of the worker's host`;
    throw new KaasqError('too_large', `${where} as ${ref}: bind {"ref": ...} to the next request, or read them there`);
  }
  const { buffer } = Uint8Array.from(Buffer.from(inline, 'base64')); // a copy: Buffer's own need not be aligned
  return new (ARRAYS[dtype] ?? Uint8Array)(buffer);
}
