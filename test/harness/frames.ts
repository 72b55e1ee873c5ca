// Frames of HTTP/2 (RFC 9113) written by hand, for what Node's own client wouldn't send.

const FRAME_HEADER = 9;
const END_STREAM = 1;
const END_HEADERS = 4;

/** What a caller's connection begins with, and settings that say nothing. */
export const preface = Buffer.concat([Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frameOf(4, 0, 0, Buffer.alloc(0))]);

/** Says that the connection is over, for no error. */
export const goaway = frameOf(7, 0, 0, Buffer.alloc(8));

/** The type of frames that ask whether the other side is there. */
export const PING = 6;

/** Asks whether the other side is there. */
export const ping = frameOf(PING, 0, 0, Buffer.alloc(8));

/** Begins a call of gRPC as the connection's first stream, with these headers besides. */
export function beginCall(path: string, more: readonly (readonly [name: string, value: string])[]): Buffer {
  const text = (value: string): Buffer => Buffer.concat([Buffer.of(value.length), Buffer.from(value)]);
  const all = [[":method", "POST"], [":scheme", "http"], [":authority", "x"], [":path", path], ["content-type", "application/grpc"], ...more] as const;
  return frameOf(1, END_HEADERS, 1, Buffer.concat(all.map(([name, value]) => Buffer.concat([Buffer.of(0), text(name), text(value)]))));
}

/** Sends the last bytes of that call's request. */
export function endRequest(bytes: Buffer): Buffer {
  return frameOf(0, END_STREAM, 1, bytes);
}

/** The types of the frames in what was received. */
export function typesOf(bytes: Buffer): readonly number[] {
  const types: number[] = [];
  for (let at = 0; at + FRAME_HEADER <= bytes.length; at += FRAME_HEADER + bytes.readUIntBE(at, 3)) types.push(bytes.readUInt8(at + 3));
  return types;
}

export function frameOf(type: number, flags: number, stream: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(FRAME_HEADER);
  head.writeUIntBE(payload.length, 0, 3);
  head.writeUInt8(type, 3);
  head.writeUInt8(flags, 4);
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}
