// As much of protobuf's encoding as a caller needs to write its requests once, and to look into answers without decoding all of them.

const VARINT = 0;
const BYTES = 2;

/** A number, as a varint. */
export function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest % 0x80) | 0x80);
  return Buffer.from([...bytes, rest]);
}

/** A field that holds a number. */
export function numberField(number: number, value: number): Buffer {
  return Buffer.concat([varint(number * 8 + VARINT), varint(value)]);
}

/** A field that holds text, or a message of these parts. */
export function field(number: number, ...parts: readonly (string | Buffer)[]): Buffer {
  const content = Buffer.concat(parts.map((part) => (typeof part === "string" ? Buffer.from(part) : part)));
  return Buffer.concat([varint(number * 8 + BYTES), varint(content.length), content]);
}

/** A field of an answer: a number, or bytes that may be a message in turn. */
export interface Field {
  readonly number: number;
  readonly value: number;
  readonly bytes: Buffer;
}

const NOTHING = Buffer.alloc(0);

/** A message's fields, in their order. Numbers are exact up to 2^53. */
export function fieldsOf(message: Buffer): readonly Field[] {
  const fields: Field[] = [];
  for (let at = 0; at < message.length; ) {
    const tag = readVarint(message, at);
    const value = readVarint(message, tag.end);
    const number = Math.floor(tag.value / 8);
    const type = tag.value % 8;
    if (type !== VARINT && type !== BYTES) throw new Error(`field ${number} has the wire type ${type}`);
    at = type === VARINT ? value.end : value.end + value.value;
    fields.push(type === VARINT ? { number, value: value.value, bytes: NOTHING } : { number, value: 0, bytes: message.subarray(value.end, at) });
  }
  return fields;
}

/** The field at the end of a path of field numbers, if it is there. */
export function fieldAt(message: Buffer, ...path: readonly number[]): Field | undefined {
  const [number, ...rest] = path;
  const found = fieldsOf(message).find((one) => one.number === number);
  return found === undefined || rest.length === 0 ? found : fieldAt(found.bytes, ...rest);
}

/** The varint at a place, and where it ends. */
export function readVarint(bytes: Buffer, from: number): { readonly value: number; readonly end: number } {
  let value = 0;
  let factor = 1;
  for (let at = from; ; at += 1) {
    const byte = bytes.readUInt8(at);
    value += (byte & 0x7f) * factor;
    if (byte < 0x80) return { value, end: at + 1 };
    factor *= 0x80;
  }
}
