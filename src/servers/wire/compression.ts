// Compressed messages, made whole again within bounds.

import { gunzipSync, inflateSync } from "node:zlib";
import type { ConnectError } from "@connectrpc/connect";
import { quote } from "../../domain/text.ts";
import { errorOf, errorOfViolations } from "../../rpc/errors.ts";

/**
 * A few bytes of gzip may stand for a thousand times as many. Here for a hundred times as many, which is more than what
 * services send reaches (thousand writes that differ in their keys alone: 10 times); whoever has more to say can say it
 * uncompressed.
 */
const MOST_RATIO = 100;
/** Whatever its ratio: a prompt of one letter, as long as it may be. It costs 0.2 ms. */
const ALWAYS_BYTES = 128 * 1024;

type Decode = (bytes: Uint8Array, options: { readonly maxOutputLength: number }) => Buffer;

const decoders: ReadonlyMap<string, Decode> = new Map([
  ["gzip", gunzipSync],
  ["deflate", inflateSync],
]);

/** What we take, as a header's value. */
export const ENCODINGS = ["identity", ...decoders.keys()].join(",");

/** What a message is when it isn't compressed. Throws where it isn't that encoding, or is too large. */
export function decompressed(bytes: Uint8Array, encoding: string, limit: number): Buffer {
  if (encoding === "identity") throw malformed("a message is marked as compressed, and no header tells how");
  const decode = decoders.get(encoding);
  if (decode === undefined) {
    const right = `a compressed message must have one of the encodings ${ENCODINGS}`;
    throw errorOf("UNSUPPORTED", `${right}, not ${quote(encoding)}`);
  }
  const most = Math.min(limit, Math.max(ALWAYS_BYTES, MOST_RATIO * bytes.length));
  try {
    return decode(bytes, { maxOutputLength: most });
  } catch (error) {
    if (!(error instanceof RangeError)) {
      throw malformed(`a message is not ${encoding}: ${error instanceof Error ? error.message : String(error)}`);
    }
    if (most === limit) throw tooLarge(`more than ${limit} bytes`, limit);
    throw tooLarge(`more than ${most} bytes in ${bytes.length} of ${encoding}`, most, `; send it uncompressed`);
  }
}

function malformed(description: string): ConnectError {
  return errorOfViolations([{ field: "", description }]);
}

/** The error of a request that has so many bytes. */
export function tooLarge(has: string, limit: number, remedy = ""): ConnectError {
  return errorOf("MESSAGE_TOO_LARGE", `the request has ${has}, at most ${limit} are taken${remedy}`, { limit_bytes: `${limit}` });
}
