// Verifies a digest that was written earlier: each of its heads must still be the row of that sequence.

import { readHashes } from "./sql/sweeps.ts";
import { readDigest, type ChainHead } from "./digest.ts";
import type { Context, VerifyEvent } from "./events.ts";

const AT_A_TIME = 1000;

/** Compares the heads of a digest, of which `countHeads` has found so many, with the log. */
export async function* verifyDigest(context: Context, file: string, total: number): AsyncGenerator<VerifyEvent, void> {
  const { session, counts } = context;
  for await (const heads of inBatches(readDigest(file))) {
    const startedAt = performance.now();
    const hashes = await readHashes(session, heads);
    for (const [index, { userId, currency, sequence, hash: expected }] of heads.entries()) {
      const actual = hashes[index];
      if (actual === expected) continue;
      yield { kind: "finding", finding: { kind: "digest_differs", userId, currency, sequence, what: "hash", expected, actual: actual ?? "no such row" } };
    }
    counts.heads += heads.length;
    yield { kind: "progress", phase: "digest", done: counts.heads, total };
    await context.rest(heads.length, startedAt);
  }
}

/** How many heads a digest has. Throws `DigestProblem` if it isn't whole. */
export async function countHeads(file: string): Promise<number> {
  const heads = readDigest(file);
  for (;;) {
    const { done, value } = await heads.next();
    if (done === true) return value.accounts;
  }
}

async function* inBatches(heads: AsyncIterable<ChainHead>): AsyncGenerator<readonly ChainHead[]> {
  let batch: ChainHead[] = [];
  for await (const head of heads) {
    if (batch.push(head) < AT_A_TIME) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}
