// Deducts of 0.01 in their encoding: a template of the whole request, into which user and key are spliced. And what their answers say.

import { randomUUID } from "node:crypto";
import { field, fieldAt, numberField, readVarint } from "./protobuf.ts";
import { framed, PREFIX } from "./http2.ts";

/** Fields of the contract, by their numbers. */
const USER_ID = 1;
const AMOUNT = 2;
const AMOUNT_OF_MONEY = 2;
const IDEMPOTENCY_KEY = 3;
const WRITES = 1;
const DEDUCT = 2;
const RESULT = { applied: 2, refused: 15, message: 2 };

/** A user's id takes three bytes, whatever it is: protobuf lets a varint be longer than it needs to be. */
export const MOST_USERS = 2 ** 21 - 1;
const LONGEST_ID = 2 ** 20;
const KEY_LENGTH = 36;
const DIGITS = Buffer.from("0123456789abcdef");
/** Odd, so that multiplying by it keeps numbers apart; large, so that keys come in no order, as UUIDs do. */
const SPREAD = 0x9e37_79b1;

/** How the requests of a call look: a `DeductRequest`, or a message with so many writes in it. */
export type Shape = "deduct" | { readonly writes: number };

/** Encoded requests, each with users of its own choice and keys that were never used. */
export class Deducts {
  readonly #users: number;
  /** One message, with its prefix. */
  readonly #template: Buffer;
  /** Where in it each deduct begins, its first field's tag. */
  readonly #places: readonly number[];
  /** Where in a deduct its key begins. */
  readonly #key: number;
  #count = 0;

  constructor(users: number, shape: Shape) {
    if (users > MOST_USERS) throw new Error(`${users} users: at most ${MOST_USERS}`);
    this.#users = users;
    const deduct = Buffer.concat([numberField(USER_ID, LONGEST_ID), field(AMOUNT, field(AMOUNT_OF_MONEY, "0.01")), field(IDEMPOTENCY_KEY, randomUUID())]);
    const write = shape === "deduct" ? deduct : field(WRITES, field(DEDUCT, deduct));
    const count = shape === "deduct" ? 1 : shape.writes;
    this.#template = framed(Buffer.concat(Array.from({ length: count }, () => write)));
    this.#places = Array.from({ length: count }, (_, index) => PREFIX + (index + 1) * write.length - deduct.length);
    this.#key = deduct.length - KEY_LENGTH;
  }

  /** The next requests, one behind the other. */
  next(messages = 1): Buffer {
    const { length } = this.#template;
    const bytes = Buffer.allocUnsafe(messages * length);
    for (let at = 0; at < bytes.length; at += length) {
      bytes.set(this.#template, at);
      for (const place of this.#places) this.#splice(bytes, at + place);
    }
    return bytes;
  }

  /** The key of a request's last deduct. */
  keyOf(request: Buffer): Buffer {
    return request.subarray(request.length - KEY_LENGTH);
  }

  #splice(bytes: Buffer, deduct: number): void {
    const user = 1 + Math.floor(Math.random() * this.#users);
    bytes[deduct + 1] = 0x80 | (user & 0x7f);
    bytes[deduct + 2] = 0x80 | ((user >> 7) & 0x7f);
    bytes[deduct + 3] = user >> 14;
    const digits = Math.imul((this.#count += 1), SPREAD);
    for (let index = 0; index < 8; index += 1) bytes[deduct + this.#key + index] = DIGITS[(digits >>> (index * 4)) & 0xf] ?? 0;
  }
}

/** How many writes an answer of `BatchWrite` or `StreamWrites` says were applied. Throws if it says that one was not. */
export function appliedBy(answer: Buffer): number {
  let count = 0;
  for (let at = 0; at < answer.length; count += 1) {
    // A tag of one byte, the result's length, and in it first the tag of what it is.
    const length = readVarint(answer, at + 1);
    const kind = answer.readUInt8(length.end) >> 3;
    at = length.end + length.value;
    if (kind !== RESULT.applied) throw new Error(`a write was not applied: ${refusalOf(answer.subarray(length.end, at))}`);
  }
  return count;
}

function refusalOf(result: Buffer): string {
  return fieldAt(result, RESULT.refused, RESULT.message)?.bytes.toString() ?? `it has the result ${result.toString("hex")}`;
}
