// A digest: the head of every chain, in a file. Kept elsewhere, it shows what nothing within the database can: that somebody who may do
// everything there rewrote a chain from some row on, hashes and all. It stays good while the ledger grows: each head is one of its account's rows.
//
// The file is gzipped text, a line for each account, by user and currency:
//
//   ledgerd.digest.1
//   <user> <currency> <sequence> <hash of that row in hexadecimal digits>
//   …
//   sha256 <over all bytes before this line, in hexadecimal digits> <accounts>

import { createHash, type Hash } from "node:crypto";
import { once } from "node:events";
import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import type { Writable } from "node:stream";
import { finished } from "node:stream/promises";
import { createGunzip, createGzip } from "node:zlib";
import { Problem } from "../domain/problem.ts";

/** A row of an account, by its sequence and its hash. */
export interface ChainHead {
  readonly userId: bigint;
  readonly currency: string;
  readonly sequence: bigint;
  readonly hash: string;
}

/** What a whole digest comes to. */
export interface DigestSum {
  /** In hexadecimal digits. */
  readonly sha256: string;
  readonly accounts: number;
}

/** The file is no digest, or not whole. */
export class DigestProblem extends Problem {}

const FIRST_LINE = "ledgerd.digest.1";

/** Writes a digest. */
export class DigestWriter {
  readonly #file: Writable;
  readonly #gzip = createGzip();
  readonly #hash: Hash = createHash("sha256");
  readonly #written: Promise<void>;
  #accounts = 0;

  /** To where it is to go. */
  constructor(to: Writable) {
    this.#file = to;
    this.#gzip.pipe(this.#file);
    this.#written = finished(this.#file);
    // Whoever ends it is told.
    this.#written.catch((error: Error) => this.#gzip.destroy(error));
    this.#gzip.on("error", () => undefined);
  }

  /** Adds an account; to be called by user and currency. */
  async add({ userId, currency, sequence, hash }: ChainHead): Promise<void> {
    if (this.#accounts === 0) await this.#line(FIRST_LINE);
    this.#accounts += 1;
    await this.#line(`${userId} ${currency} ${sequence} ${hash}`);
  }

  /** Ends it; answers what it comes to. */
  async end(): Promise<DigestSum> {
    if (this.#accounts === 0) await this.#line(FIRST_LINE);
    const sum = { sha256: this.#hash.digest("hex"), accounts: this.#accounts };
    this.#gzip.end(`sha256 ${sum.sha256} ${sum.accounts}\n`);
    await this.#written;
    return sum;
  }

  async #line(text: string): Promise<void> {
    this.#hash.update(`${text}\n`);
    if (this.#gzip.write(`${text}\n`) || this.#gzip.destroyed) return;
    await Promise.race([once(this.#gzip, "drain"), this.#written]);
  }
}

/** Reads a digest. Throws `DigestProblem` where it isn't one, and at its end if it isn't whole, so what it gave before must not be trusted until then. */
export async function* readDigest(file: string): AsyncGenerator<ChainHead, DigestSum> {
  const hash = createHash("sha256");
  let accounts = 0;
  let first = true;
  let sum: string | undefined;
  for await (const line of linesOf(file)) {
    if (sum !== undefined) throw new DigestProblem(`${file} goes on behind its end`);
    if (first && line !== FIRST_LINE) throw new DigestProblem(`${file} is no digest of ledgerd: it doesn't begin with ${FIRST_LINE}`);
    if (line.startsWith("sha256 ")) {
      sum = line;
      continue;
    }
    hash.update(`${line}\n`);
    if (!first) {
      yield headOf(line, file);
      accounts += 1;
    }
    first = false;
  }
  const expected = `sha256 ${hash.digest("hex")} ${accounts}`;
  if (sum !== expected) throw new DigestProblem(`${file} was cut off, or altered: it ends with ${JSON.stringify(sum ?? "nothing")} instead of ${JSON.stringify(expected)}`);
  return { sha256: expected.split(" ")[1] ?? "", accounts };
}

async function* linesOf(file: string): AsyncGenerator<string> {
  const gunzip = createGunzip();
  const source = createReadStream(file);
  source.on("error", (error) => gunzip.destroy(error));
  source.pipe(gunzip);
  try {
    yield* createInterface({ input: gunzip, crlfDelay: Number.POSITIVE_INFINITY });
    // The interface ends like any other end where its input failed.
    if (gunzip.errored !== null) throw gunzip.errored;
  } catch (cause) {
    throw new DigestProblem(`${file} can't be read: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  } finally {
    source.destroy();
    gunzip.destroy();
  }
}

function headOf(line: string, file: string): ChainHead {
  const [, userId = "", currency = "", sequence = "", hash = ""] = /^(-?\d+) (\S+) (\d+) ([\da-f]{64})$/.exec(line) ?? [];
  if (hash === "") throw new DigestProblem(`${file} has a line that is no account's: ${JSON.stringify(line.slice(0, 200))}`);
  return { userId: BigInt(userId), currency, sequence: BigInt(sequence), hash };
}
