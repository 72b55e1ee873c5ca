// The bytes of protobuf's values, written from the end of a message to its beginning: so the length of what is nested in it is known when it is to be
// written, and nothing is moved.
//
// There is one buffer for all messages: one is copied out before the next is begun.

/** Kept from one message to the next; what a larger one needs is given back. */
const KEPT_BYTES = 256 * 1024;
const LONGEST_VARINT = 10;
/** Up to so many characters a text is copied here, while it is ASCII: below that, a call of Node's costs more. */
const SHORT_TEXT = 48;

let buffer = Buffer.allocUnsafe(KEPT_BYTES);
/** What is written lies from here to the end. */
let start = buffer.length;

const long = new BigInt64Array(1);
const [LOW, HIGH] = [0, 1];
const halves = new Int32Array(long.buffer);

/** Begins a message; what was written of one that failed is dropped. */
export function beginMessage(): void {
  start = buffer.length;
}

/** Ends it. */
export function endMessage(): Buffer {
  const bytes = Buffer.from(buffer.subarray(start));
  if (buffer.length > KEPT_BYTES) buffer = Buffer.allocUnsafe(KEPT_BYTES);
  return bytes;
}

/** How many bytes the message has so far. */
export function written(): number {
  return buffer.length - start;
}

/** A number of 32 bits without sign. */
export function writeVarint(value: number): void {
  makeRoom(LONGEST_VARINT);
  if (value < 0x80) {
    start -= 1;
    buffer[start] = value;
    return;
  }
  start -= value < 0x4000 ? 2 : value < 0x20_0000 ? 3 : value < 0x1000_0000 ? 4 : 5;
  putVarint(start, value);
}

/** A number of 32 bits; one below zero takes as much as one of 64 bits. */
export function writeInt32(value: number): void {
  if ((value | 0) !== value) throw new RangeError(`${value} is no int32`);
  if (value >= 0) writeVarint(value);
  else writeHalves(value, -1);
}

/** A number of 64 bits. */
export function writeInt64(value: bigint): void {
  long[0] = value;
  if (long[0] !== value) throw new RangeError(`${value} is no int64`);
  writeHalves(halves[LOW] ?? 0, halves[HIGH] ?? 0);
}

/** A text in UTF-8, and its length. */
export function writeText(value: string): void {
  const { length } = value;
  makeRoom(3 * length + LONGEST_VARINT);
  if (length <= SHORT_TEXT && putAscii(start - length, value)) {
    start -= length;
    writeVarint(length);
    return;
  }
  const bytes = Buffer.byteLength(value);
  start -= bytes;
  buffer.write(value, start, bytes);
  writeVarint(bytes);
}

/** Bytes, and their length. */
export function writeBytes(bytes: Uint8Array): void {
  makeRoom(bytes.length + LONGEST_VARINT);
  start -= bytes.length;
  buffer.set(bytes, start);
  writeVarint(bytes.length);
}

function writeHalves(low: number, high: number): void {
  if (high === 0) {
    writeVarint(low >>> 0);
    return;
  }
  makeRoom(LONGEST_VARINT);
  start -= Math.ceil((64 - Math.clz32(high)) / 7);
  let at = start;
  for (let rest = high; rest !== 0; rest >>>= 7) {
    buffer[at] = low | 0x80;
    low = (low >>> 7) | (rest << 25);
    at += 1;
  }
  putVarint(at, low >>> 0);
}

function putVarint(from: number, value: number): void {
  let at = from;
  let rest = value;
  for (; rest > 0x7f; rest >>>= 7) {
    buffer[at] = rest | 0x80;
    at += 1;
  }
  buffer[at] = rest;
}

/** Whether it was ASCII to its end. */
function putAscii(from: number, value: string): boolean {
  for (let index = 0; index < value.length; index += 1) {
    const code = value.charCodeAt(index);
    if (code > 0x7f) return false;
    buffer[from + index] = code;
  }
  return true;
}

function makeRoom(bytes: number): void {
  if (start >= bytes) return;
  const length = written();
  const larger = Buffer.allocUnsafe(2 * (buffer.length + bytes));
  start = larger.length - length;
  buffer.copy(larger, start, buffer.length - length);
  buffer = larger;
}
